"""Tasks at once equal tasks one by one; chunks of them give the same gradients."""

import pytest
import torch
from torch import Tensor, nn

from fewshot.ops import tasks
from fewshot.ops.tasks import Recomputed, accumulated, map_tasks, model_logits

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


def waves(params: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """Of `c` nothing depends on what is differentiated; `unused` is not used."""
    return {"a": (params["w"] * x).sin(), "b": params["w"].exp() + params["b"] * x, "c": x * 2}


def test_recomputed_results_and_gradients_are_those_of_the_plain_call() -> None:
    params = {name: torch.randn(3, dtype=torch.float64, requires_grad=name != "b") for name in ("w", "b", "unused")}
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    leaves = [params["w"], params["unused"], x]
    found, plain = (Recomputed(enabled=enabled)(waves, params, x) for enabled in (True, False))
    assert list(found) == list(plain) == ["a", "b", "c"]
    gradients = []
    for results in (found, plain):
        loss = (results["a"] * results["b"] + results["c"]).sum()
        gradients.append(torch.autograd.grad(loss, leaves, allow_unused=True))
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours is theirs is None) or torch.equal(ours, theirs)
    assert gradients[0][1] is None


def test_recomputed_differentiates_through_an_inner_gradient_and_can_be_chained() -> None:
    def inner(params: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        gradient = torch.func.grad(lambda p, x: (p["w"] * x).sin().sum())
        return map_tasks(gradient, params, {"w": torch.Size((2,))}, x)

    x, found = torch.randn(4, 3, 2, dtype=torch.float64), []
    for enabled in (True, False):
        recomputed, start = Recomputed(enabled=enabled), torch.tensor([0.3, -0.7], dtype=torch.float64).requires_grad_()
        w = start
        for _ in range(3):
            w = w - 0.5 * recomputed(inner, {"w": w}, x)["w"]
        found.append(torch.autograd.grad(w.square().sum(), start)[0])
    assert torch.equal(*found)


def test_recomputed_keeps_nothing_without_gradients_and_calls_once() -> None:
    calls: list[bool] = []

    def counted(params: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        calls.append(torch.is_grad_enabled())
        return {"y": params["w"] * x}

    w, x = torch.ones(2, requires_grad=True), torch.ones(2)
    with torch.no_grad():
        assert not Recomputed(enabled=True)(counted, {"w": w}, x)["y"].requires_grad
    assert calls == [False]
    Recomputed(enabled=True)(counted, {"w": w}, x)["y"].sum().backward()
    assert calls == [False, False, True]


def dropped(params: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    return {"y": nn.functional.dropout(params["w"] * x, 0.5)}


def test_recomputed_draws_the_same_twice_and_leaves_the_generator_where_it_was() -> None:
    w, x = torch.ones(64, requires_grad=True), torch.ones(64)
    result = Recomputed(enabled=True)(dropped, {"w": w}, x)["y"]
    torch.rand(5)  # others draw in between
    before = torch.get_rng_state()
    result.sum().backward()
    assert torch.equal(w.grad, result.detach())  # 0 where dropped, 2 elsewhere, on both ways
    assert torch.equal(torch.get_rng_state(), before)


def test_recomputed_draws_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = torch.ones(4, requires_grad=True), torch.ones(4)
    random, fixed = Recomputed(enabled=True), Recomputed(enabled=True)
    random(dropped, {"w": w}, x), fixed(waves, {"w": w, "b": w}, x)  # the plain calls before a capture
    monkeypatch.setattr(tasks, "_capturing", lambda tensor: True)
    with pytest.raises(RuntimeError, match="checkpoint_inner has to draw its dropout twice alike"):
        random(dropped, {"w": w}, x)
    fixed(waves, {"w": w, "b": w}, x)["a"].sum().backward()
    assert w.grad is not None


def test_recomputed_results_have_no_second_derivative_to_be_wrong_about() -> None:
    w, x = torch.ones(4, requires_grad=True), torch.ones(4)
    result = Recomputed(enabled=True)(waves, {"w": w, "b": w}, x)["a"].sum()
    with pytest.raises(RuntimeError, match="checkpoint_inner has no second outer derivative"):
        torch.autograd.grad(result, w, create_graph=True)
