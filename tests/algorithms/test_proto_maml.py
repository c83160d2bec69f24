"""Proto-MAML: the head is a prototypical network's, adapts as a plain loop says, and passes on gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, linear

from fewshot.algorithms.proto_maml import ProtoMAML
from fewshot.algorithms.protonet import ProtoNet
from fewshot.backbones.mlp import MLP
from fewshot.episode import Episode, Episodes
from fewshot.errors import InputError

WAYS, SHOTS, QUERIES, TASKS = 3, 2, 2, 2
STREAM = Episodes(tasks=TASKS, ways=WAYS, shots=SHOTS, queries=QUERIES)


def backbone() -> nn.Module:
    net = MLP((1, 2, 3), widths=[5, 4], norm="none").double()
    for weight in net.parameters():  # embeddings that differ from each other
        weight.data.mul_(3)
    return net


def proto_maml(net: nn.Module, **options: Any) -> ProtoMAML:
    defaults: dict[str, Any] = {
        "inner_lr": 0.05, "inner_rate": "fixed", "inner_steps": 2, "eval_inner_steps": 2, "first_order": False,
        "adapt": "all", "adapt_norm": True, "loss_reduction": "mean", "norm_statistics": "support",
        "head_init": "zero", "task_chunk": None, "checkpoint_inner": False,
    }  # fmt: skip
    return ProtoMAML(net, ways=WAYS, stream=STREAM, **(defaults | options)).double()


def episode(ways: int = WAYS, shots: int = SHOTS) -> Episode:
    labels = torch.arange(ways)
    y = [labels.repeat_interleave(n).repeat(TASKS, 1) for n in (shots, QUERIES)]
    x = [torch.rand(*labels.shape, 1, 2, 3, dtype=torch.float64) for labels in y]
    return Episode(x[0], y[0], x[1], y[1], labels.repeat(TASKS, 1))


def loop(net: nn.Module, batch: Episode, *, first_order: bool) -> Tensor:
    """(1) to (4) for one task after the other, by autograd alone; the mean loss."""
    losses = []
    for support_x, support_y, query_x, query_y, _ in zip(*batch, strict=True):
        theta = {name: p.clone() for name, p in net.named_parameters()}  # (3) moves w and b as weights of their own
        z = net(support_x)
        c = torch.stack([z[support_y == k].mean(0) for k in range(WAYS)])
        params = theta | {"w": 2 * c, "b": -(c**2).sum(1)}

        def logits(params: dict[str, Tensor], x: Tensor) -> Tensor:
            body = {name: p for name, p in params.items() if name not in ("w", "b")}
            return linear(functional_call(net, body, (x,)), params["w"], params["b"])

        for _ in range(2):
            loss = cross_entropy(logits(params, support_x), support_y)
            g = torch.autograd.grad(loss, list(params.values()), create_graph=not first_order, retain_graph=True)
            params = {name: p - 0.05 * d for (name, p), d in zip(params.items(), g, strict=True)}
        losses.append(cross_entropy(logits(params, query_x), query_y))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("first_order", [False, True])
def test_loss_and_gradient_are_those_of_a_loop_over_tasks(first_order: bool) -> None:
    net, batch = backbone(), episode()
    out = proto_maml(net, first_order=first_order)(batch)
    expected = loop(net, batch, first_order=first_order)
    torch.testing.assert_close(out.loss, expected, rtol=1e-9, atol=1e-12)
    parameters = list(net.parameters())
    found = torch.autograd.grad(out.loss, parameters)
    for a, b in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(("ways", "shots"), [(WAYS, SHOTS), (6, 1)])
def test_before_the_first_step_it_is_a_prototypical_network_at_any_ways_and_shots(ways: int, shots: int) -> None:
    net, batch = backbone(), episode(ways, shots)
    model = proto_maml(net).eval()
    first = next(model.adaptation(batch.support_x, batch.support_y, ways=ways))
    protonet = ProtoNet(net, stream=STREAM, distance="squared_euclidean", temperature=1.0)
    expected = protonet.predict(protonet.adapt(batch.support_x, batch.support_y, ways=ways), batch.query_x)
    torch.testing.assert_close(model.predict(first, batch.query_x).softmax(-1), expected.softmax(-1))


def test_the_first_order_gradient_still_runs_through_the_prototypes() -> None:
    """With no inner step left to move anything the query loss reaches the support images by the prototypes alone."""
    batch = episode()
    batch.support_x.requires_grad_()
    proto_maml(backbone(), first_order=True, inner_lr=0.0)(batch).loss.backward()
    assert batch.support_x.grad.abs().max() > 1e-4


@pytest.mark.parametrize("statistics", ["batch", "support", "running"])
def test_prototypes_are_made_with_the_statistics_of_the_inner_loop(statistics: str) -> None:
    net = MLP((1, 2, 3), widths=[5, 4], norm="batch").double()
    model, batch = proto_maml(net, norm_statistics=statistics, inner_lr=0.0), episode()
    model(batch)
    model.eval()
    state = model.adapt(batch.support_x, batch.support_y, ways=WAYS)
    z = model.network.features(state, batch.support_x)  # the support set's statistics in all three
    c = torch.stack([z[:, k * SHOTS : (k + 1) * SHOTS].mean(1) for k in range(WAYS)], 1)
    torch.testing.assert_close(state["head.weight"], 2 * c, rtol=1e-6, atol=1e-9)


def test_a_learned_head_has_no_place() -> None:
    with pytest.raises(InputError, match=r"algorithm\.head_init is not zero, but this head starts from prototypes"):
        proto_maml(backbone(), head_init="default")
