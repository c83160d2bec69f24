"""Schedules are pure functions of the step, given here by their values."""

import math
from typing import Any

import pytest

from fewshot import schedules
from fewshot.errors import InputError


def test_constant() -> None:
    factor = schedules.constant()
    assert [factor(step) for step in (0, 1, 10**6)] == [1, 1, 1]


def test_cosine_without_warmup() -> None:
    factor = schedules.cosine(steps=100, warmup=0, final=0.0)
    assert factor(0) == 1
    assert factor(50) == pytest.approx(0.5)
    assert factor(25) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert factor(100) == pytest.approx(0)
    assert factor(1000) == pytest.approx(0)


def test_cosine_ends_at_its_final_factor() -> None:
    factor = schedules.cosine(steps=100, warmup=0, final=0.2)
    assert [factor(0), factor(50), factor(100)] == pytest.approx([1, 0.6, 0.2])


def test_warmup_rises_in_equal_steps_to_one() -> None:
    factor = schedules.cosine(steps=12, warmup=4, final=0.0)
    assert [factor(step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert factor(8) == pytest.approx(0.5)
    assert factor(12) == pytest.approx(0)


@pytest.mark.parametrize(("steps", "warmup"), [(0, 0), (5, 5), (5, 9)])
def test_a_run_no_longer_than_its_warmup(steps: int, warmup: int) -> None:
    factor = schedules.cosine(steps=steps, warmup=warmup, final=0.0)
    assert all(0 <= factor(step) <= 1 for step in range(12))


def test_decay_is_a_staircase() -> None:
    factor = schedules.decay(every=10, gamma=0.5)
    assert [factor(step) for step in (0, 9, 10, 19, 20, 35)] == [1, 1, 0.5, 0.5, 0.25, 0.125]


def test_decay_needs_a_length() -> None:
    with pytest.raises(InputError, match=r"schedule\.every=0 is below 1"):
        schedules.decay(every=0, gamma=0.5)


@pytest.mark.parametrize(
    ("at", "unit", "steps"),
    [([45, 60, 75], 600, (27_000, 36_000, 45_000)), ([0.5, 0.75, 0.9], 100, (50, 75, 90)), ([3, 5, 6], 1, (3, 5, 6))],
    ids=["epochs", "parts of the run", "steps"],
)
def test_milestones_are_stairs_in_any_unit(at: list[float], unit: float, steps: tuple[int, ...]) -> None:
    factor = schedules.milestones(at=at, unit=unit, factors=[0.06, 0.012, 0.0024])  # MetaOptNet's
    assert factor(0) == 1
    for before, step, after in zip((1, 0.06, 0.012), steps, (0.06, 0.012, 0.0024), strict=True):
        assert (factor(step - 1), factor(step)) == (before, after)
    assert factor(10**6) == 0.0024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": [0.1]}, r"schedule\.at has 2 milestones and schedule\.factors 1; one for each"),
        ({"at": [75, 50]}, r"schedule\.at=\[75, 50\], unit=1; milestones rise from above 0"),
        ({"at": [0, 50]}, r"milestones rise from above 0"),
        ({"unit": -1}, r"unit=-1; milestones rise"),
    ],
)
def test_milestones_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        schedules.milestones(**({"at": [50, 75], "unit": 1, "factors": [0.1, 0.01]} | options))
