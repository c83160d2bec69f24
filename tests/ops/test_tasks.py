"""Tasks at once equal tasks one by one; chunks of them give the same gradients."""

import pytest
import torch
from torch import Tensor, nn

from fewshot.ops.tasks import accumulated, map_tasks, model_logits

SHAPES = {"w": torch.Size((3, 2)), "b": torch.Size((2,))}


def affine(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return x @ params["w"] + params["b"]


@pytest.mark.parametrize("own", [(), ("w",), ("b",), ("w", "b")])
def test_shared_and_own_parameters(own: tuple[str, ...]) -> None:
    params = {name: torch.randn(*((4,) if name in own else ()), *shape) for name, shape in SHAPES.items()}
    x = torch.randn(4, 5, 3)
    found = map_tasks(affine, params, SHAPES, x)
    assert found.shape == (4, 5, 2)
    for t in range(4):
        one = {name: p[t] if name in own else p for name, p in params.items()}
        torch.testing.assert_close(found[t], affine(one, x[t]))


def test_a_scalar_parameter_may_be_shared_or_own() -> None:
    shapes = {"s": torch.Size(())}
    x = torch.randn(4, 2)
    scale = torch.arange(4.0)
    assert torch.equal(map_tasks(lambda p, x: p["s"] * x, {"s": scale}, shapes, x), scale[:, None] * x)
    assert torch.equal(map_tasks(lambda p, x: p["s"] * x, {"s": scale[2]}, shapes, x), 2 * x)


def test_each_task_drops_other_units() -> None:
    params = {"w": torch.ones(2)}
    x = torch.ones(64, 2)
    dropped = map_tasks(lambda p, x: nn.functional.dropout(x * p["w"], 0.5), params, {"w": torch.Size((2,))}, x)
    assert len(dropped.unique(dim=0)) == 4


def test_model_logits_are_a_linear_layer_on_the_backbone() -> None:
    backbone, head = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh()), nn.Linear(3, 2)
    x = torch.randn(6, 1, 2, 2)
    other = nn.Linear(4, 3)
    params = {"head.weight": head.weight, "head.bias": head.bias}
    torch.testing.assert_close(model_logits(backbone, params, x), head(backbone(x)))
    replaced = params | {"backbone.1.weight": other.weight, "backbone.1.bias": other.bias}
    torch.testing.assert_close(model_logits(backbone, replaced, x), head(other(x.flatten(1)).tanh()))


def test_model_logits_take_buffers_from_the_parameters() -> None:
    backbone, x = nn.BatchNorm1d(3).eval(), torch.randn(4, 3)
    params = {"head.weight": torch.eye(3), "head.bias": torch.zeros(3), "backbone.running_mean": x.mean(0)}
    torch.testing.assert_close(model_logits(backbone, params, x), (x - x.mean(0)) / (1 + 1e-5) ** 0.5)
    assert torch.equal(backbone.running_mean, torch.zeros(3))


def test_accumulated_losses_have_the_gradients_of_their_sum() -> None:
    w, b, unused = (torch.randn(3, requires_grad=True) for _ in range(3))
    data = torch.randn(4, 3)
    losses = [lambda i=i, x=x: (w * x).sum().tanh() + (b if i else b.detach()).sum() for i, x in enumerate(data)]
    total = accumulated(losses, [w, b, unused])
    (3 * total).backward()
    expected = 3 * sum(make() for make in losses)
    torch.testing.assert_close(3 * total, expected)
    gradients = torch.autograd.grad(expected, [w, b])
    torch.testing.assert_close((w.grad, b.grad), gradients)
    assert unused.grad is None


def test_accumulated_frees_each_graph_before_the_next() -> None:
    w = torch.ones(3, requires_grad=True)
    alive: list[int] = []
    graphs = [0]

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
            graphs[0] += 1
            return x.sum()

        @staticmethod
        def backward(ctx: torch.autograd.function.FunctionCtx, g: Tensor) -> Tensor:  # type: ignore[override]
            graphs[0] -= 1
            return g.expand(3)

    def make() -> Tensor:
        alive.append(graphs[0])
        return Counted.apply(w)

    accumulated([make] * 3, [w]).backward()
    assert alive == [0, 0, 0]
    assert torch.equal(w.grad, torch.full((3,), 3.0))
