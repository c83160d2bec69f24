"""DropBlock: which positions it drops, how many, when; and the counter that only training moves."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fewshot.ops.dropblock import DropBlock, Scheduled, count_training_step, step_counters


def dropblock(rate: float = 0.1, size: int = 2, ramp: int = 10, *, steps: int = 10) -> DropBlock:
    layer = DropBlock(rate=rate, size=size, ramp=ramp)
    layer.steps.fill_(steps)
    return layer


def squares(dropped: Tensor, size: int) -> Tensor:
    """The positions [H, W] that the squares lying wholly within `dropped` cover, written out."""
    covered = torch.zeros_like(dropped)
    height, width = dropped.shape
    for i in range(height - size + 1):
        for j in range(width - size + 1):
            if dropped[i : i + size, j : j + size].all():
                covered[i : i + size, j : j + size] = True
    return covered


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_is_dropped_is_a_union_of_squares(size: int) -> None:
    y = dropblock(0.3, size)(torch.ones(8, 5, 6, 7))
    maps = (y == 0).flatten(0, 1)
    assert 0 < maps.double().mean() < 1
    assert all(torch.equal(squares(dropped, size), dropped) for dropped in maps)
    assert len(y[y != 0].unique()) == 1


@pytest.mark.parametrize(("size", "side"), [(1, 4), (2, 4), (2, 2), (5, 10), (5, 5), (5, 3)])
def test_corners_are_drawn_with_the_papers_probability(size: int, side: int) -> None:
    """gamma = (1 - keep) / size^2 * H W / ((H - size + 1) (W - size + 1)): of the first corner nothing else is near."""
    x = torch.ones(400, 100, side, side)
    share = (dropblock(0.1, size)(x)[..., 0, 0] == 0).double().mean().item()
    used = min(size, side)
    gamma = 0.1 / used**2 * side**2 / (side - used + 1) ** 2
    assert share == pytest.approx(gamma, abs=5 * (gamma / 40_000) ** 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sum_stays_and_small_probabilities_are_drawn_right_in_bf16(dtype: torch.dtype) -> None:
    x = torch.ones(400, 100, 4, 4, dtype=dtype)
    y = dropblock(0.001, 1)(x)
    assert y.dtype == dtype
    assert (y == 0).double().mean().item() == pytest.approx(0.001, rel=0.2)  # bf16 draws give 0.0039
    y = dropblock(0.3, 2)(x)
    assert y.double().mean().item() == pytest.approx(1, abs=4e-3 if dtype is torch.bfloat16 else 1e-6)


@pytest.mark.parametrize(("steps", "share"), [(0, 0.0), (1, 0.02), (5, 0.1), (10, 0.2), (1000, 0.2)])
def test_the_share_rises_by_training_steps_and_then_stays(steps: int, share: float) -> None:
    y = dropblock(0.2, 1, ramp=10, steps=steps)(torch.ones(200, 100, 2, 2))
    assert (y == 0).double().mean().item() == pytest.approx(share, abs=0.005)
    if not steps:
        assert torch.equal(y, torch.ones_like(y))


def test_evaluation_drops_nothing_and_forwards_count_nothing() -> None:
    layer, x = dropblock(0.5), torch.rand(3, 2, 4, 4)
    layer(x)
    assert layer.eval()(x) is x
    assert layer.steps == 10
    count_training_step(nn.Sequential(nn.ReLU(), layer, dropblock(steps=3)))
    assert layer.steps == 11
    assert dropblock(0.0).train()(x) is x


def test_a_map_of_which_nothing_is_left_is_zero() -> None:
    layer, x = dropblock(0.999, 2, steps=10), torch.ones(1, 1, 2, 2, requires_grad=True)
    seen = [layer(x) for _ in range(20)]
    assert any((y == 0).all() for y in seen)
    assert all(y.isfinite().all() for y in seen)
    assert torch.autograd.grad(sum(y.sum() for y in seen), x)[0].isfinite().all()


def test_tasks_draw_and_are_scaled_each_for_itself_and_the_counter_survives_vmap() -> None:
    layer = dropblock(0.4)
    x = torch.rand(6, 4, 3, 5, 5)
    y = torch.vmap(layer, randomness="different")(x)
    dropped = y == 0
    assert all(not torch.equal(dropped[0], other) for other in dropped[1:])
    for one, task in zip(y, x, strict=True):
        kept = one != 0
        torch.testing.assert_close(one[kept], task[kept] * kept.numel() / kept.sum())
    shared = torch.vmap(lambda _: layer(x[0]), randomness="different")(torch.arange(6))
    assert len({tuple(t.flatten().tolist()) for t in shared == 0}) == 6
    assert layer.steps == 10


def test_second_derivatives_pass_through_it_under_vmap() -> None:
    """What is dropped is a constant: y = m x, so that the gradient of (m x)^3 by x is 3 m^3 x^2, and so on."""
    layer, x = dropblock(0.4).double(), torch.rand(3, 2, 3, 5, 5, dtype=torch.float64)

    def penalty(x: Tensor) -> tuple[Tensor, Tensor]:
        def cube(x: Tensor) -> tuple[Tensor, Tensor]:
            y = layer(x)
            return (y**3).sum(), y

        gradient, y = torch.func.grad(cube, has_aux=True)(x)
        return gradient.square().sum(), y

    found, y = torch.vmap(torch.func.grad(penalty, has_aux=True), randomness="different")(x)
    m = y / x
    torch.testing.assert_close(found, 36 * m**6 * x**3)  # of (3 m^3 x^2)^2


def test_the_counter_is_part_of_a_checkpoint_and_of_a_layer_of_ones_own() -> None:
    class Annealed(Scheduled):
        def forward(self, x: Tensor) -> Tensor:
            return x / (1 + self.steps)

    net = nn.Sequential(dropblock(steps=7), Annealed())
    count_training_step(net)
    assert [int(c) for c in step_counters(net)] == [8, 1]
    fresh = nn.Sequential(dropblock(steps=0), Annealed())
    fresh.load_state_dict(copy.deepcopy(net.state_dict()))
    assert [int(c) for c in step_counters(fresh)] == [8, 1]
    assert step_counters(fresh)[0].dtype == torch.int64
    assert [int(c) for c in step_counters(fresh.double())] == [8, 1]
