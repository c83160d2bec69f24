"""MAML++: its loss, its gradient and its statistics are those of a plain loop over tasks and steps, in float64."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, linear

from fewshot.algorithms.maml import MAML
from fewshot.algorithms.maml_pp import MAMLPlusPlus
from fewshot.backbones.mlp import MLP
from fewshot.episode import Episode, Episodes
from fewshot.errors import InputError
from fewshot.ops import norm

WAYS, SHOTS, QUERIES, TASKS, STEPS, UPDATES = 3, 2, 2, 2, 3, 10
STREAM = Episodes(tasks=TASKS, ways=WAYS, shots=SHOTS, queries=QUERIES)
BODY = ("backbone.0.weight", "backbone.0.bias")


def model_and_network(**options: Any) -> tuple[MAMLPlusPlus, nn.Module]:
    """The algorithm, every number of it drawn anew, and the network as it was before it had a row for each step."""
    torch.manual_seed(0)
    network = MLP((1, 2, 3), widths=[5], norm="batch").double()
    defaults: dict[str, Any] = {
        "inner_lr": 0.3, "inner_steps": STEPS, "eval_inner_steps": STEPS, "updates": UPDATES, "multi_step_part": 1.0,
        "first_order_part": 0.0, "norm_statistics": "batch", "head_init": "default", "task_chunk": None,
        "checkpoint_inner": False,
    }  # fmt: skip
    model = MAMLPlusPlus(copy.deepcopy(network), ways=WAYS, stream=STREAM, **(defaults | options)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model, network


def episode(seed: int = 0) -> Episode:
    noise, labels = torch.Generator().manual_seed(seed), torch.arange(WAYS)
    y = [labels.repeat_interleave(n).repeat(TASKS, 1) for n in (SHOTS, QUERIES)]
    x = [torch.rand(*labels.shape, 1, 2, 3, generator=noise, dtype=torch.float64) for labels in y]
    return Episode(x[0], y[0], x[1], y[1], labels.repeat(TASKS, 1))


class Loop:
    """(1) to (4) by autograd, one task after the other; what batch norm saw of the queries after each step."""

    def __init__(self, model: MAMLPlusPlus, network: nn.Module) -> None:
        self.network, self.source = network, "stored" if not model.training else "batch"
        self.named = dict(model.named_parameters()) | dict(model.named_buffers())
        self.layer = next(name for name in norm.batch_norms(network))
        self.seen: list[list[dict[str, Tensor]]] = []

    def logits(self, moving: dict[str, Tensor], step: int, x: Tensor) -> Tensor:
        rows = {f"{self.layer}.{n}": self.named[f"backbone.{self.layer}.{n}"][step]
                for n in ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
        body = {n.removeprefix("backbone."): p for n, p in moving.items() if n.startswith("backbone.")}
        with norm.statistics_from(self.network, self.source), norm.recording(self.network) as seen:
            z = functional_call(self.network, body | rows, (x,))
        self.seen[-1].append(seen)
        return linear(z, moving["head.weight"], moving["head.bias"])

    def queries(self, task: tuple[Tensor, ...], *, first_order: bool = False) -> list[Tensor]:
        """The logits of one task's queries after each step."""
        support_x, support_y, query_x, *_ = task
        moving = {n: p for n, p in self.named.items() if n.startswith(("backbone.", "head."))
                  and not n.startswith(f"backbone.{self.layer}.")}  # fmt: skip
        found = []
        for step in range(STEPS):
            self.seen.append([])
            loss = cross_entropy(self.logits(moving, step, support_x), support_y)
            g = torch.autograd.grad(loss, list(moving.values()), create_graph=not first_order, retain_graph=True)
            rates = [self.named[f"rates.rates.{n.replace('.', '/')}"][step] for n in moving]
            moving = {n: p - a * d for (n, p), a, d in zip(moving.items(), rates, g, strict=True)}
            found.append(self.logits(moving, step, query_x))
        return found


@pytest.mark.parametrize(
    ("done", "weights", "options"),
    [
        (0, [1 / 3, 1 / 3, 1 / 3], {}),
        (5, [1 / 6, 1 / 6, 2 / 3], {"task_chunk": 1}),
        (5, [1 / 6, 1 / 6, 2 / 3], {"first_order_part": 0.6}),
        (6, [2 / 15, 2 / 15, 11 / 15], {"first_order_part": 0.6, "checkpoint_inner": True}),
        (10, [0, 0, 1], {}),
        (0, [0, 0, 1], {"multi_step_part": 0.0}),
    ],
)
def test_loss_and_gradient_are_those_of_a_loop(done: int, weights: list[float], options: dict[str, Any]) -> None:
    (model, network), batch = model_and_network(**options), episode()
    model.train()
    model.done.steps.fill_(done)
    out = model(batch)
    loop, losses = Loop(model, network), []
    for task in zip(*batch, strict=True):
        logits = loop.queries(task, first_order=done < 10 * options.get("first_order_part", 0))
        losses.append(sum(v * cross_entropy(y, task[3]) for v, y in zip(weights, logits, strict=True)))
    wanted = torch.stack(losses).mean()
    torch.testing.assert_close(out.loss, wanted, rtol=1e-9, atol=1e-12)
    out.loss.backward()
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(wanted, list(parameters.values()), allow_unused=True)
    for (name, p), g in zip(parameters.items(), found, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-7, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_running_statistics_of_each_step_are_learned_and_used_at_test() -> None:
    (model, network), batch = model_and_network(norm_statistics="running", multi_step_part=0.0), episode()
    layer = next(iter(norm.batch_norms(model.backbone).values()))
    layer.running_mean.normal_()
    before = layer.running_mean.clone()
    model.train()(batch)
    loop = Loop(model, network)
    tasks = list(zip(*batch, strict=True))
    for task in tasks:
        loop.queries(task)
    for step in range(STEPS):
        means = [loop.seen[STEPS * t + step][1][f"{loop.layer}.running_mean"] for t in range(TASKS)]
        wanted = before[step] + 0.1 * (torch.stack(means).mean(0) - before[step])
        torch.testing.assert_close(layer.running_mean[step], wanted.detach(), rtol=1e-9, atol=1e-12)
    model.eval()
    assert not model.transductive
    state = model.adapt(batch.support_x, batch.support_y, ways=WAYS)
    found, stored = model.predict(state, batch.query_x), Loop(model, network)
    for t, task in enumerate(tasks):
        torch.testing.assert_close(found[t], stored.queries(task)[-1], rtol=1e-8, atol=1e-10)


def test_as_long_as_all_steps_have_the_same_batch_norm_it_predicts_as_maml_does() -> None:
    torch.manual_seed(0)
    network = MLP((1, 2, 3), widths=[5], norm="batch")
    options: dict[str, Any] = {
        "inner_lr": 0.3, "inner_steps": STEPS, "eval_inner_steps": 5, "norm_statistics": "batch",
        "head_init": "zero", "task_chunk": None, "checkpoint_inner": False,
    }  # fmt: skip
    maml = MAML(copy.deepcopy(network), ways=WAYS, stream=STREAM, inner_rate="fixed", first_order=False, adapt="all",
                adapt_norm=False, loss_reduction="mean", **options).double().eval()  # fmt: skip
    model = MAMLPlusPlus(network, ways=WAYS, stream=STREAM, updates=0, multi_step_part=0.1, first_order_part=0.0,
                         **options).double().eval()  # fmt: skip
    batch = episode()
    found, wanted = (m.predict(m.adapt(batch.support_x, batch.support_y, ways=WAYS), batch.query_x)
                     for m in (model, maml))  # fmt: skip
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)  # rates are float32 parameters


def test_parts_of_the_training_are_parts() -> None:
    with pytest.raises(InputError, match=r"algorithm\.multi_step_part=2 and first_order_part=0\.0 are parts"):
        model_and_network(multi_step_part=2)
