"""What is captured serves tensors of the shapes of its capture. The graph itself: tests/test_outer_step.py."""

import pytest
import torch
from torch import Tensor

from fewshot.engine import capture
from fewshot.engine.capture import Captured


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> tuple[Captured, Tensor]:
    """y = 2 x, of shape [4, 3]; a replay is a call."""
    monkeypatch.setattr(capture, "cuda_graph", lambda function: function)
    y = torch.zeros(4, 3)

    def double(x: Tensor, _: Tensor) -> None:
        y[: len(x)] = 2 * x

    return Captured(double, name="the doubling"), y


@pytest.mark.parametrize("shape", [(1, 3), (4, 1), (3,), (8, 3)])
def test_other_shapes_are_refused_by_name(doubled: tuple[Captured, Tensor], shape: tuple[int, ...]) -> None:
    """`copy_` alone would repeat a smaller batch over the buffer."""
    step, y = doubled
    for k in range(6):
        step(torch.full((4, 3), float(k)), torch.tensor(1.0))
    assert torch.equal(y, torch.full((4, 3), 10.0))
    with pytest.raises(
        ValueError, match=r"the doubling was captured for tensors of shapes \[\(4, 3\), \(\)\]; these are"
    ):
        step(torch.ones(shape), torch.tensor(1.0))
    assert torch.equal(y, torch.full((4, 3), 10.0))


def test_plain_calls_before_the_capture_take_any_shape(doubled: tuple[Captured, Tensor]) -> None:
    step, y = doubled
    step(torch.ones(2, 3), torch.tensor(1.0))
    assert y[:2].eq(2).all()
