"""Scores into probabilities, and what leaving out tells: closed forms and properties."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fewshot.prediction import (
    SCALE,
    SCALES,
    Findings,
    accuracy,
    advice,
    best_scale,
    by_ridge,
    findings,
    has_others,
    mixed_up,
    scale_of,
    threshold,
)

NAMES = ["ant", "bee", "cat"]


def features(sizes: list[int], views: int = 4) -> tuple[Tensor, Tensor]:
    """Classes that are easily told apart, [M, V, D], and their classes."""
    y = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    centres = torch.rand(len(sizes), 1, 16, dtype=torch.float64)
    return (centres[y] + 0.05 * torch.rand(len(y), views, 16, dtype=torch.float64)), y


def test_unequal_classes_one_with_a_single_picture() -> None:
    z, y = features([1, 5, 3])
    judged = by_ridge(z, y, 3, z + 0.01)
    assert (judged.query.argmax(-1) == y).all()
    assert (judged.left_out.argmax(-1) == y)[1:].all()
    assert (y[judged.near[:, 0]] == y).all()


def test_left_out_is_what_the_others_say() -> None:
    """Where the strength that they choose is the same, it is the query score of the picture that stayed away."""
    z, y = features([2, 3, 2])
    judged = by_ridge(z, y, 3, z)
    assert judged.left_out.shape == judged.query.shape == (7, 3)
    assert not torch.allclose(judged.left_out, judged.query, atol=1e-3)
    torch.testing.assert_close(judged.query.sum(-1), torch.ones(7, dtype=torch.float64))


def test_the_scale_is_that_of_least_loss() -> None:
    scores, y = torch.randn(200, 4, dtype=torch.float64), torch.randint(4, (200,))
    scores[torch.arange(200), y] += 1
    best = best_scale(scores, y)
    assert cross_entropy(best * scores, y) <= min(cross_entropy(s * scores, y) for s in SCALES) + 1e-12
    assert best_scale(scores / 7, y) == pytest.approx(7 * best, rel=0.06)  # the grid's step


def test_without_second_pictures_there_is_nothing_to_calibrate_by() -> None:
    y = torch.arange(3)
    assert scale_of(torch.zeros(3, 3), y) == SCALE
    assert findings(torch.zeros(3, 3), y).accuracy is None
    assert has_others(torch.tensor([0, 1, 1])).tolist() == [False, True, True]


def test_wilsons_interval() -> None:
    """9 of 10: statsmodels' proportion_confint(9, 10, method="wilson") gives 0.59585 and 0.98213."""
    found = accuracy(torch.arange(10) > 0)
    assert found is not None
    assert tuple(found) == pytest.approx((90.0, 59.585, 98.213, 10), abs=1e-3)
    assert accuracy(torch.ones(0, dtype=torch.bool)) is None


def test_the_threshold_loses_the_share_of_known_pictures() -> None:
    p = torch.rand(100, 3).softmax(-1)
    limit = threshold(p, torch.arange(100) % 3, 0.1)
    assert (p.amax(-1) < limit).sum() == 10


def test_findings_name_the_pair_and_the_weak_class() -> None:
    y = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    taken = torch.tensor([0, 1, 1, 1, 1, 0, 0])
    found = findings(torch.nn.functional.one_hot(taken, 3).double(), y)
    assert found.accuracy is not None
    assert (found.accuracy.value, found.accuracy.pictures) == (50.0, 6)
    assert found.single == [2]
    assert found.mixed_up == [(0, 1, 3)]
    assert mixed_up(found, NAMES) == "Most often mixed up: ant and bee (3 of 6)."
    assert advice(found, NAMES) == "Add a second picture of cat: with one, nothing can be said about it."
    rest = found._replace(single=[])
    assert advice(rest, NAMES) == "Add pictures of ant first: they are recognised least."


def test_advice_where_all_is_well_and_where_nothing_is_known() -> None:
    right = accuracy(torch.ones(5, dtype=torch.bool))
    assert right is not None
    assert "No class stands out" in advice(Findings(right, [], {0: right, 1: right}, []), NAMES)
    assert "Add a second picture of each class" in advice(Findings(None, [0, 1], {}, []), NAMES)
    assert mixed_up(Findings(right, [], {}, []), NAMES) is None
