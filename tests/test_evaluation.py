"""Evaluation of a fixed stream, with an algorithm that is known: nearest class mean in pixel space."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from fewshot.algorithms.base import Algorithm
from fewshot.datasets.base import ImageSet
from fewshot.evaluation import Evaluation, evaluate, raw_pixels
from fewshot.metrics import mean_ci95
from fewshot.sampler import EpisodeSampler


class NearestMean(Algorithm):
    """Three states: after no, one and two "steps", each sharper than the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.calls: list[tuple[bool, bool, torch.dtype]] = []

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> tuple[Tensor, int]:
        *_, last = self.adaptation(support_x, support_y, ways=ways)
        return last

    def adaptation(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Iterator[tuple[Tensor, int]]:
        means = support_x.flatten(2).unflatten(1, (ways, -1)).mean(2)
        yield from ((means * self.weight, step) for step in range(3))

    def predict(self, state: tuple[Tensor, int], query_x: Tensor) -> Tensor:
        means, step = state
        used = torch.mm(torch.ones(1, 1), torch.ones(1, 1)).dtype
        self.calls.append((self.training, torch.is_grad_enabled(), used))
        return -torch.cdist(query_x.flatten(2), means) * step  # no idea before the first step


@pytest.fixture
def sampler(make_blobs: Callable[..., ImageSet]) -> EpisodeSampler:
    return EpisodeSampler(make_blobs(noise=90.0), "train", ways=3, shots=2, queries=4, seed=0)


def run(sampler: EpisodeSampler, *, episodes: int = 10, tasks: int = 4, every_step: bool = True) -> Evaluation:
    return evaluate(NearestMean(), sampler, episodes=episodes, tasks=tasks, every_step=every_step)


def test_accuracy_loss_and_classes_are_those_of_the_episodes(sampler: EpisodeSampler) -> None:
    found = run(sampler)
    batch = sampler.sample(0, 10)
    algorithm = NearestMean()
    logits = algorithm.predict(algorithm.adapt(batch.support_x, batch.support_y, ways=3), batch.query_x)
    right = (logits.argmax(-1) == batch.query_y).double().mean(-1) * 100
    assert torch.equal(found.accuracy, right)
    assert 40 < float(right.mean()) < 100  # noisy enough to be of use here
    assert torch.equal(found.classes, batch.classes)
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), batch.query_y.flatten())
    assert found.loss == pytest.approx(expected.item(), rel=1e-6)
    assert found.accuracy.dtype == found.step_accuracy.dtype == torch.float64


def test_accuracy_after_each_step(sampler: EpisodeSampler) -> None:
    found = run(sampler)
    assert found.step_accuracy.shape == (10, 3)
    assert torch.equal(found.step_accuracy[:, -1], found.accuracy)
    third = torch.full((10,), 100 / 3, dtype=torch.float64)
    torch.testing.assert_close(found.step_accuracy[:, 0], third)  # all ties: class 0
    only_last = run(sampler, every_step=False)
    assert torch.equal(only_last.step_accuracy, found.accuracy[:, None])
    assert only_last.loss == found.loss


@pytest.mark.parametrize("tasks", [1, 3, 10, 64])
def test_the_number_of_tasks_at_a_time_changes_nothing(sampler: EpisodeSampler, tasks: int) -> None:
    expected, found = run(sampler), run(sampler, tasks=tasks)
    assert torch.equal(found.step_accuracy, expected.step_accuracy)
    assert torch.equal(found.classes, expected.classes)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_in_evaluation_mode_without_gradients_and_then_as_before(sampler: EpisodeSampler, training: bool) -> None:
    algorithm = NearestMean().train(training)
    found = evaluate(algorithm, sampler, episodes=3, tasks=2)
    assert set(algorithm.calls) == {(False, False, torch.float32)}
    assert len(algorithm.calls) == 2
    assert algorithm.training is training
    assert not found.accuracy.requires_grad
    assert found.seconds > 0


def test_autocast_is_used_where_asked_and_losses_stay_float32(sampler: EpisodeSampler) -> None:
    algorithm = NearestMean()
    found = evaluate(algorithm, sampler, episodes=3, tasks=3, dtype=torch.bfloat16)
    assert algorithm.calls == [(False, False, torch.bfloat16)]
    assert found.accuracy.dtype == torch.float64


def test_summary_is_what_results_hold(sampler: EpisodeSampler) -> None:
    found = run(sampler)
    value, ci95 = mean_ci95(found.accuracy)
    assert found.summary() == {"accuracy": value, "accuracy_ci95": ci95, "episodes": 10, "loss": found.loss}


def test_it_can_be_stopped_between_batches(sampler: EpisodeSampler) -> None:
    seen: list[int] = []

    def between() -> None:
        seen.append(len(seen))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(NearestMean(), sampler, episodes=100, tasks=5, between=between)
    assert seen == [0, 1, 2]


def test_raw_pixels_are_the_nearest_class_mean_on_the_same_episodes(sampler: EpisodeSampler) -> None:
    found = raw_pixels(sampler, episodes=10, tasks=4)
    assert found == run(sampler).mean
