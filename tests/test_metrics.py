"""Accuracies and intervals, by their closed forms."""

import math

import pytest
import torch

from fewshot import metrics
from fewshot.errors import InputError


def test_episode_accuracy_is_percent_right_in_each() -> None:
    logits = torch.eye(4)[None].repeat(3, 1, 1)  # predicts 0, 1, 2, 3
    query_y = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 0], [3, 2, 1, 0]])
    found = metrics.episode_accuracy(logits, query_y)
    assert found.tolist() == [100, 50, 0]
    assert found.dtype == torch.float64


def test_mean_and_interval_of_a_known_sample() -> None:
    mean = metrics.mean_ci95(torch.tensor([1.0, 2.0, 3.0, 4.0]))  # s^2 = 5/3
    assert mean.value == 2.5
    assert mean.ci95 == pytest.approx(1.959963984540054 * math.sqrt(5 / 3) / 2)


def test_the_interval_of_one_episode_is_unknown() -> None:
    mean = metrics.mean_ci95(torch.tensor([70.0]))
    assert mean.value == 70
    assert math.isnan(mean.ci95)


def test_the_interval_covers_the_truth_95_times_in_100() -> None:
    samples = torch.randn(2000, 100, dtype=torch.float64) + 3
    covered = [abs(m.value - 3) <= m.ci95 for m in map(metrics.mean_ci95, samples)]
    assert 0.93 < sum(covered) / len(covered) < 0.96  # the normal quantile in place of Student's costs 0.3 %


def test_float32_accuracies_are_averaged_in_float64() -> None:
    values = torch.full((300_000,), 98.61, dtype=torch.float32)
    assert metrics.mean_ci95(values).value == pytest.approx(float(values[0]), abs=1e-9)


def test_a_paired_difference_is_free_of_what_both_share() -> None:
    difficulty = 10 * torch.randn(50)
    gain = torch.tensor([1.0, 3.0]).repeat(25)
    found = metrics.paired_difference(difficulty + gain, difficulty)
    assert found.value == pytest.approx(2, abs=1e-5)
    assert found.ci95 == pytest.approx(metrics.mean_ci95(gain).ci95, rel=1e-4)
    assert found.ci95 < metrics.mean_ci95(difficulty).ci95 / 5


def test_other_numbers_of_episodes_are_no_pairs() -> None:
    with pytest.raises(InputError, match="1000 and 1 episodes cannot be compared in pairs"):
        metrics.paired_difference(torch.rand(1000), torch.rand(1))


def test_nearest_class_mean_by_hand() -> None:
    support = torch.tensor([[[0.0], [10.0], [2.0], [6.0]]])  # class means 1 and 8, labels not in order
    support_y = torch.tensor([[0, 1, 0, 1]])
    query, query_y = torch.tensor([[[4.4], [4.6], [-5.0], [5.0]]]), torch.tensor([[0, 1, 1, 1]])
    found = metrics.class_mean_accuracy(support, support_y, query, query_y, 2)
    assert found.tolist() == [75]
