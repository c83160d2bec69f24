"""Evaluation of a fixed stream, with an algorithm that is known: nearest class mean in pixel space."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tape import on_tape
from test_outer_step import make
from torch import Tensor, nn

from fewshot import evaluation
from fewshot.algorithms.base import Algorithm, embed
from fewshot.datasets.base import ImageSet
from fewshot.engine import capture
from fewshot.episode import Episodes
from fewshot.errors import FewshotError, InputError
from fewshot.evaluation import Evaluation, evaluate, raw_pixels
from fewshot.metrics import mean_ci95
from fewshot.ops.similarities import class_means, squared_distances
from fewshot.sampler import EpisodeSampler
from fewshot.transforms import CenterCrop, QuarterTurn


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


def test_episodes_of_drawn_size_are_tested_each_by_itself(make_blobs: Callable[..., ImageSet]) -> None:
    """Their numbers are those of episodes of these sizes, whatever the batch; no algorithm has to know of others."""
    sizes: dict[str, Any] = {"ways": {"low": 2, "high": 4}, "shots": {"low": 1, "high": 4}, "queries": 4}
    draws = EpisodeSampler(make_blobs(noise=90.0), "train", **sizes, seed=0)
    found, algorithm = run(draws), NearestMean()
    for k, episode in enumerate(draws.sample(0, 10).unpadded()):
        logits = algorithm.predict(algorithm.adapt(*episode[:2], ways=episode.ways), episode.query_x)
        assert logits.shape == (1, 4 * episode.ways, episode.ways)
        right = (logits.argmax(-1) == episode.query_y).double().mean() * 100
        assert found.accuracy[k] == pytest.approx(right.item())
    assert torch.equal(found.classes, draws.sample(0, 10).classes) and (found.classes < 0).any()
    together = run(draws, tasks=10)
    assert torch.equal(together.step_accuracy, found.step_accuracy) and together.loss == pytest.approx(found.loss)
    assert 40 < raw_pixels(draws, episodes=10, tasks=3).value < 100


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

    def before_batch() -> None:
        seen.append(len(seen))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(NearestMean(), sampler, episodes=100, tasks=5, before_batch=before_batch)
    assert seen == [0, 1, 2]


def test_raw_pixels_are_the_nearest_class_mean_on_the_same_episodes(sampler: EpisodeSampler) -> None:
    found = raw_pixels(sampler, episodes=10, tasks=4)
    assert found == run(sampler).mean


# ---- the order of the queries, numbers that are none, shapes ----------------------------------------------


class Labels(NearestMean):
    """Reads the order of the queries: they are drawn class by class."""

    def predict(self, state: tuple[Tensor, int], query_x: Tensor) -> Tensor:
        tasks, queries = query_x.shape[:2]
        y = torch.arange(3).repeat_interleave(queries // 3).repeat(tasks, 1)
        return nn.functional.one_hot(y, 3).float()


def test_the_order_of_the_queries_tells_nothing(sampler: EpisodeSampler) -> None:
    found = evaluate(Labels(), sampler, episodes=300, tasks=50)
    assert abs(found.mean.value - 100 / 3) < 3 * found.mean.ci95
    assert found.accuracy.std() > 5  # another order in each episode


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_never_right_and_no_result(sampler: EpisodeSampler, bad: float) -> None:
    """argmax of NaN is class 0, which would be right in one of three."""

    class Diverges(NearestMean):
        def predict(self, state: tuple[Tensor, int], query_x: Tensor) -> Tensor:
            logits = super().predict(state, query_x)
            size = state[0].flatten(1).sum(1)  # [T]
            return torch.where((size > size.median())[:, None, None], bad, logits)

    expected = run(sampler)
    found = evaluate(Diverges(), sampler, episodes=10, tasks=4)
    assert 0 < int(found.finite.sum()) < 10
    assert found.accuracy[~found.finite].eq(0).all()
    assert torch.equal(found.accuracy[found.finite], expected.accuracy[found.finite])
    count, first = int((~found.finite).sum()), int((~found.finite).nonzero()[0])
    with pytest.raises(FewshotError, match=rf"not finite in {count} of 10 episodes \(first in number {first}\)"):
        found.require_finite()
    expected.require_finite()


@pytest.mark.parametrize(
    ("logits", "found"),
    [
        (lambda x: x.flatten(2), r"\(4, 12, 16\)"),
        (lambda x: x.flatten(2)[:, :, :2], r"\(4, 12, 2\)"),
        (lambda x: x.flatten(2)[:, :, :3].mT, r"\(4, 3, 12\)"),
        (lambda x: x.flatten(2)[0, :, :3], r"\(12, 3\)"),
        (lambda x: None, r"\(NoneType\)"),
    ],
)
def test_logits_of_another_shape_are_refused_with_both(
    sampler: EpisodeSampler, logits: Callable[[Tensor], Tensor], found: str
) -> None:
    class Mine(NearestMean):
        def predict(self, state: tuple[Tensor, int], query_x: Tensor) -> Tensor:
            return logits(query_x)

    message = rf"Mine\.predict gave logits of shape {found}; expected \(4, 12, 3\), that is tasks, queries, ways"
    with pytest.raises(InputError, match=message):
        evaluate(Mine(), sampler, episodes=8, tasks=4)


# ---- every image embedded once ----------------------------------------------------------------------------


class Counting(nn.Module):
    """A linear embedding that counts its images."""

    out_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.images = nn.Linear(16, 8), 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.linear(x.flatten(1)).tanh()


class Prototypes(Algorithm):
    fixed_features = True

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.stream = backbone, Episodes(tasks=1, ways=3, shots=1, queries=1)

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        return class_means(embed(self.backbone, support_x), support_y, ways)

    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        return -squared_distances(embed(self.backbone, query_x), state)


@pytest.fixture
def large(make_blobs: Callable[..., ImageSet]) -> EpisodeSampler:
    """The second of three splits, 6 classes of 20 images."""
    return EpisodeSampler(make_blobs(classes=18, per_class=20, noise=90.0), "val", ways=3, shots=2, queries=4, seed=0)


@pytest.mark.parametrize("every_step", [False, True])
def test_features_of_all_images_give_the_numbers_of_the_images(large: EpisodeSampler, every_step: bool) -> None:
    algorithm = Prototypes(Counting())
    options: dict[str, Any] = {"episodes": 53, "tasks": 4, "every_step": every_step}
    once = evaluate(algorithm, large, **options)
    assert once.embedded_once
    assert algorithm.backbone.images == 120 + 2  # and two of them by themselves
    algorithm.fixed_features = False
    slow = evaluate(algorithm, large, **options)
    assert not slow.embedded_once
    assert torch.equal(once.accuracy, slow.accuracy)
    assert torch.equal(once.classes, slow.classes)
    assert once.loss == pytest.approx(slow.loss, rel=1e-5)
    assert 40 < once.mean.value < 100


def test_images_go_through_the_backbone_episode_by_episode_where_that_is_less(large: EpisodeSampler) -> None:
    assert not evaluate(Prototypes(Counting()), large, episodes=6, tasks=2).embedded_once  # 108 of 120 images
    assert evaluate(Prototypes(Counting()), large, episodes=7, tasks=2).embedded_once


def test_images_that_are_changed_in_each_episode_are_not_embedded_once(make_images: Callable[..., ImageSet]) -> None:
    images, options = make_images([8] * 4), {"ways": 3, "shots": 1, "queries": 2, "seed": 0}
    for changed in ({"transforms": [QuarterTurn()]}, {"support": [QuarterTurn()], "support_copies": 2}):
        sampler = EpisodeSampler(images, "train", **options, **changed)
        assert not evaluate(Prototypes(nn.Flatten()), sampler, episodes=50, tasks=10).embedded_once
    sampler = EpisodeSampler(images, "train", **options, transforms=[CenterCrop(size=2)])
    assert evaluate(Prototypes(nn.Flatten()), sampler, episodes=50, tasks=10).embedded_once


def test_a_backbone_that_looks_at_the_batch_is_found_out(large: EpisodeSampler) -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, track_running_stats=False))
    assert not evaluate(Prototypes(backbone), large, episodes=50, tasks=10).embedded_once


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (nn.Flatten(0), r"Flatten gave \(\d+,\) for images \(\d+, 1, 4, 4\); expected \(\d+, out_features\)"),
        (nn.Sequential(nn.Flatten(), nn.Unflatten(1, (2, 8)), nn.Flatten(0, 1)), r"Sequential gave \(\d+, 8\)"),
    ],
)
def test_a_backbone_that_gives_other_than_embeddings_is_refused(
    large: EpisodeSampler, backbone: nn.Module, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(Prototypes(backbone), large, episodes=50, tasks=10)


def test_a_wrong_out_features_is_refused(large: EpisodeSampler) -> None:
    backbone = Counting()
    backbone.out_features = 5
    with pytest.raises(InputError, match=r"Counting gave \(\d+, 8\) for images .*; expected \(\d+, 5\)"):
        evaluate(Prototypes(backbone), large, episodes=50, tasks=10)


def test_progress_counts_every_episode_once(sampler: EpisodeSampler) -> None:
    done: list[int] = []
    evaluate(NearestMean(), sampler, episodes=10, tasks=4, advance=done.append)
    raw_pixels(sampler, episodes=10, tasks=4, advance=done.append)
    assert done == [4, 4, 2] * 2


def test_captured_batches_give_the_scores_of_plain_ones(
    make_blobs: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, the ragged last batch too, which has a shape of its own and is not captured."""
    images, taped = make_blobs(classes=15), on_tape(monkeypatch)
    for model in ("maml running", "protonet"):
        algorithm = make(model, images, dropout=0.3)
        draws = EpisodeSampler(images, "val", ways=3, shots=1, queries=2, seed=0, transforms=[QuarterTurn()])
        options: dict[str, Any] = {"episodes": 15, "tasks": 2, "every_step": True}
        plain = evaluate(algorithm, draws, **options)
        assert taped == []
        captured = evaluate(algorithm, draws, **options, cuda_graph=True)
        assert len(taped) == 1
        taped.clear()
        for name in ("step_accuracy", "classes", "finite"):
            assert torch.equal(getattr(captured, name), getattr(plain, name)), name
        assert captured.loss == plain.loss


def test_a_batch_that_cannot_be_captured_is_tested_as_it_is(
    sampler: EpisodeSampler, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], list[str]]
) -> None:
    def refuse(function: capture.Replay) -> capture.Replay:
        raise RuntimeError("not here")

    monkeypatch.setattr(capture, "cuda_graph", refuse)
    captured = evaluate(NearestMean(), sampler, episodes=20, tasks=3, every_step=True, cuda_graph=True)
    assert torch.equal(captured.step_accuracy, run(sampler, episodes=20).step_accuracy)
    assert logged() == ["the test of a batch cannot be captured in a CUDA graph and runs as it is (not here)"]


def test_as_many_states_for_all_episodes() -> None:
    """As a user's `adaptation` yields them: else there is no accuracy after each inner step."""
    one, two = ((torch.zeros(3, states), torch.zeros(3)) for states in (1, 2))
    assert [t.shape for t in evaluation._joined([two, two])] == [(6, 2), (6,)]
    with pytest.raises(InputError, match=r"adaptation gave \[1, 2\] states for different episodes"):
        evaluation._joined([one, two])
