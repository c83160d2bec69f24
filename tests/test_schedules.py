"""Schedules are pure functions of the step, given here by their values."""

import math

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
