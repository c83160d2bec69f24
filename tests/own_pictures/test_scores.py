"""Scores into probabilities, and what leaving out tells: closed forms and properties."""

import numpy as np
import pytest

from fewshot.own_pictures.scores import (
    SCALE,
    SCALES,
    Findings,
    accuracy,
    advice,
    best_scale,
    findings,
    has_others,
    mixed_up,
    nearest,
    scale_of,
    softmax,
    threshold,
)

NAMES = ["ant", "bee", "cat"]


def loss(scores: np.ndarray, y: np.ndarray) -> float:
    """Mean -log p(y), from the probabilities themselves; infinite where one is 0."""
    with np.errstate(divide="ignore"):
        return float(-np.log(softmax(scores)[np.arange(len(y)), y]).mean())


def test_the_scale_is_that_of_least_loss() -> None:
    drawn = np.random.default_rng(0)
    scores, y = drawn.normal(size=(200, 4)), drawn.integers(4, size=200)
    scores[np.arange(200), y] += 1
    best = best_scale(scores, y)
    assert loss(best * scores, y) <= min(loss(s * scores, y) for s in SCALES) + 1e-12
    assert best_scale(scores / 7, y) == pytest.approx(7 * best, rel=0.06)  # the grid's step


def test_the_nearest_come_first() -> None:
    support = np.eye(4)[:, None] + 0.1
    query = np.array([[[0.1, 0.9, 0.3, 0.2]]])
    assert nearest(query, support).tolist() == [[1, 2, 3]]
    assert nearest(query, support[:2]).tolist() == [[1, 0]]


def test_without_second_pictures_there_is_nothing_to_calibrate_by() -> None:
    y = np.arange(3)
    assert scale_of(np.zeros((3, 3)), y) == SCALE
    assert findings(np.zeros((3, 3)), y).accuracy is None
    assert has_others(np.array([0, 1, 1])).tolist() == [False, True, True]


def test_wilsons_interval() -> None:
    """9 of 10: statsmodels' proportion_confint(9, 10, method="wilson") gives 0.59585 and 0.98213."""
    found = accuracy(np.arange(10) > 0)
    assert found is not None
    assert tuple(found) == pytest.approx((90.0, 59.585, 98.213, 10), abs=1e-3)
    assert accuracy(np.ones(0, dtype=bool)) is None


def test_the_threshold_loses_the_share_of_known_pictures() -> None:
    p = softmax(np.random.default_rng(0).random((100, 3)))
    limit = threshold(p, np.arange(100) % 3, 0.1)
    assert (p.max(-1) < limit).sum() == 10


def test_findings_name_the_pair_and_the_weak_class() -> None:
    y = np.array([0, 0, 0, 1, 1, 1, 2])
    taken = np.array([0, 1, 1, 1, 1, 0, 0])
    found = findings(np.eye(3)[taken], y)
    assert found.accuracy is not None
    assert (found.accuracy.value, found.accuracy.pictures) == (50.0, 6)
    assert found.single == [2]
    assert found.mixed_up == [(0, 1, 3)]
    assert mixed_up(found, NAMES) == "Most often mixed up: ant and bee (3 of 6)."
    assert advice(found, NAMES) == "Add a second picture of cat: with one, nothing can be said about it."
    rest = found._replace(single=[])
    assert advice(rest, NAMES) == "Add pictures of ant first: they are recognised least."


def test_advice_where_all_is_well_and_where_nothing_is_known() -> None:
    right = accuracy(np.ones(5, dtype=bool))
    assert right is not None
    assert "No class stands out" in advice(Findings(right, [], {0: right, 1: right}, []), NAMES)
    assert "Add a second picture of each class" in advice(Findings(None, [0, 1], {}, []), NAMES)
    assert mixed_up(Findings(right, [], {}, []), NAMES) is None
