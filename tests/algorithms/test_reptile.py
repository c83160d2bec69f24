"""Reptile: the outer gradient and the second moments are those of PyTorch's Adam, task by task, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, linear

from fewshot.algorithms.reptile import BETA2, Reptile
from fewshot.backbones.mlp import MLP
from fewshot.episode import Episode, Episodes
from fewshot.errors import InputError
from fewshot.ops.dropblock import count_training_step
from fewshot.schedules import linear as linear_schedule

WAYS, SHOTS, QUERIES, TASKS, STEPS, BATCH = 3, 2, 2, 2, 4, 5


def reptile(norm: str = "batch", **options: Any) -> Reptile:
    defaults: dict[str, Any] = {
        "inner_lr": 0.01, "inner_steps": STEPS, "inner_batch": BATCH, "eval_inner_steps": 3, "eval_inner_batch": 6,
        "norm_statistics": "support_and_query",
    }  # fmt: skip
    stream = Episodes(tasks=TASKS, ways=WAYS, shots=SHOTS, queries=QUERIES)
    return Reptile(MLP((1, 2, 3), widths=[5, 4], norm=norm), ways=WAYS, stream=stream, **(defaults | options)).double()


def episode(seed: int) -> Episode:
    noise, labels = torch.Generator().manual_seed(seed), torch.arange(WAYS)
    y = [labels.repeat_interleave(n).repeat(TASKS, 1) for n in (SHOTS, QUERIES)]
    x = [torch.rand(*labels.shape, 1, 2, 3, generator=noise, dtype=torch.float64) for labels in y]
    return Episode(x[0], y[0], x[1], y[1], labels.repeat(TASKS, 1))


def logits(model: Reptile, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """One task's, batch norm with the statistics of x."""
    body = {n.removeprefix("backbone."): w for n, w in weights.items() if n.startswith("backbone.")}
    with model.network.statistics(adapting=True):
        return linear(functional_call(model.backbone, body, (x,)), weights["head.weight"], weights["head.bias"])


def adapted_by_pytorch(
    model: Reptile, x: Tensor, y: Tensor, batches: Tensor, v: dict[str, Tensor], steps: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(1) for one task by torch.optim.Adam that has done `steps` steps; the weights, and the second moments."""
    weights = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    adam = torch.optim.Adam(weights.values(), lr=model.inner_lr, betas=(0.0, BETA2))
    for name, w in weights.items():
        adam.state[w] = {"step": torch.tensor(float(steps)), "exp_avg": torch.zeros_like(w),
                         "exp_avg_sq": v[name].clone()}  # fmt: skip
    for rows in batches:
        adam.zero_grad()
        cross_entropy(logits(model, weights, x[rows]), y[rows]).backward()
        adam.step()
    return weights, {name: adam.state[w]["exp_avg_sq"] for name, w in weights.items()}


def test_outer_gradient_and_moments_over_two_meta_batches_are_those_of_pytorch() -> None:
    model = reptile().train()
    theta = dict(model.named_parameters())
    v = {name: torch.zeros_like(p) for name, p in theta.items()}
    for k in range(2):
        batch = episode(k)
        torch.manual_seed(k)
        batches = model.minibatches(WAYS * (SHOTS + QUERIES))
        assert sorted(batches.flatten()[:12].tolist()) == list(range(12)), "a whole pass before an image comes again"
        torch.manual_seed(k)
        model.zero_grad()
        model(batch).loss.backward()
        found = []
        for t in range(TASKS):
            x = torch.cat([batch.support_x[t], batch.query_x[t]])
            y = torch.cat([batch.support_y[t], batch.query_y[t]])
            found.append(adapted_by_pytorch(model, x, y, batches, v, k * STEPS))
        for name, p in theta.items():
            wanted = p - torch.stack([weights[name] for weights, _ in found]).mean(0)
            # of a bias below batch norm the gradient is rounding, which Adam divides by its eps of 1e-8
            torch.testing.assert_close(p.grad, wanted.detach(), rtol=1e-7, atol=1e-8)
        v = {name: torch.stack([moments[name] for _, moments in found]).mean(0) for name in theta}
        for name, mine in model.second_moments().items():
            torch.testing.assert_close(mine, v[name], rtol=1e-8, atol=1e-14)
        count_training_step(model)  # as the trainer does
        with torch.no_grad():
            for p in theta.values():
                p -= p.grad


def test_at_test_each_query_is_judged_in_one_batch_with_the_support_set() -> None:
    model, batch = reptile().eval(), episode(0)
    assert not model.transductive
    state = model.adapt(batch.support_x, batch.support_y, ways=WAYS)
    found = model.predict(state, batch.query_x)
    for t in range(TASKS):
        v = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        x, y = batch.support_x[t], batch.support_y[t]
        weights, _ = adapted_by_pytorch(model, x, y, model.minibatches(len(x)), v, 0)
        for q, image in enumerate(batch.query_x[t]):
            wanted = logits(model, weights, torch.cat([x, image[None]]))[-1]
            torch.testing.assert_close(found[t, q], wanted.detach(), rtol=1e-7, atol=1e-9)


def test_the_loss_that_is_shown_is_the_cross_entropy_of_the_queries() -> None:
    out, batch = reptile("none").train()(episode(0)), episode(0)
    torch.testing.assert_close(out.loss, cross_entropy(out.logits.flatten(0, 1), batch.query_y.flatten()))


def test_only_batch_norm_over_all_queries_is_transductive() -> None:
    assert reptile(norm_statistics="batch").transductive
    assert not reptile("none", norm_statistics="batch").transductive
    assert not reptile(norm_statistics="support").transductive


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(InputError, match=r"algorithm\.inner_steps=0 is below 1"):
        reptile(inner_steps=0)
    with pytest.raises(InputError, match="norm_statistics=running is unknown"):
        reptile(norm_statistics="running")
    batch = episode(0)
    with pytest.raises(InputError, match="ways=2, but this head was learned for ways=3"):
        reptile().adapt(batch.support_x, batch.support_y, ways=2)


def test_linear_schedule() -> None:
    factor = linear_schedule(steps=10, final=0.0)
    assert [factor(k) for k in (0, 5, 10, 12)] == [1.0, 0.5, 0.0, 0.0]


def test_frozen_weights_stay() -> None:
    model = reptile()
    frozen: nn.Parameter = model.head.bias
    frozen.requires_grad_(False)
    batch = episode(0)
    state = model.eval().adapt(batch.support_x, batch.support_y, ways=WAYS)
    assert state.params["head.bias"] is frozen
    model.train()(batch).loss.backward()
    assert frozen.grad is None and model.head.weight.grad.any()
    assert not model.second_moments()["head.bias"].any()
