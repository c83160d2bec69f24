"""Accuracy on a fixed stream of episodes, and the two baselines beside it. Layer 3."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fewshot.algorithms.base import Algorithm
from fewshot.embedded import embedded
from fewshot.engine.capture import Captured
from fewshot.engine.processes import ALONE, Processes
from fewshot.engine.runtime import autocast
from fewshot.episode import Episode, check_logits
from fewshot.errors import FewshotError, InputError
from fewshot.metrics import Mean, class_mean_accuracy, episode_accuracy, mean_ci95
from fewshot.ops import random
from fewshot.sampler import EpisodeSampler

QUERY_ORDER = random.key(0, "query order")
FEATURE_TASKS = 10  # times as many episodes at a time, where they are of embeddings
Score = Callable[[Tensor, int], tuple[Tensor, ...]]  # of episodes first, first + 1, ..., so many: a row for each


class Evaluation(NamedTuple):
    """What E episodes gave; accuracies in percent."""

    accuracy: Tensor  # [E] float64
    step_accuracy: Tensor  # [E, S+1] float64, after 0..S inner steps; S = 0 where there are none
    classes: Tensor  # [E, N] int64 class ids of the data set, -1 where an episode has fewer
    loss: float  # mean cross-entropy of the queries
    seconds: float
    finite: Tensor  # [E] bool, whether all predictions were; one that is not counts as wrong
    embedded_once: bool  # images went through the backbone once, episodes were drawn from their embeddings

    @property
    def mean(self) -> Mean:
        return mean_ci95(self.accuracy)

    def summary(self) -> dict[str, float]:
        """The fields of `test` and `val` in result.json."""
        return {**self.mean.as_accuracy(), "episodes": len(self.accuracy), "loss": self.loss}

    def by_inner_step(self) -> dict[str, list[dict[str, float]]]:
        """`inner_steps`: mean and interval after 0, 1, ..., S of them; nothing where the algorithm takes none."""
        steps = [mean_ci95(column).as_accuracy() for column in self.step_accuracy.unbind(1)]
        return {"inner_steps": steps} if len(steps) > 1 else {}

    def require_finite(self) -> None:
        """FewshotError where some predictions are not finite: such a number is no result."""
        bad = (~self.finite).nonzero().flatten().tolist()
        if bad:
            raise FewshotError(
                f"predictions are not finite in {len(bad)} of {len(self.finite)} episodes (first in number {bad[0]}), "
                "so there is no result; lower algorithm.inner_lr or algorithm.eval_inner_steps, or choose another "
                "checkpoint"
            )


def evaluate(
    algorithm: Algorithm, sampler: EpisodeSampler, *, episodes: int, tasks: int, dtype: torch.dtype | None = None,
    every_step: bool = False, before_batch: Callable[[], None] = lambda: None, processes: Processes = ALONE,
    advance: Callable[[int], None] = lambda episodes: None, cuda_graph: bool = False,
) -> Evaluation:  # fmt: skip
    """Adapt to and predict episodes 0..episodes-1 of the stream, `tasks` at a time, without gradients.

    The queries of an episode come in an order that does not tell their classes. Where that is less work and the
    algorithm allows it (`fixed_features`), all images are embedded once first.
    every_step: also predict after each inner step. before_batch: called before each (to stop early). advance:
    called after each with the number of episodes that are done with it.
    processes: take turns at the batches and hand each other what they gave: all return the same, and the same
    as one process alone.
    cuda_graph: launch each batch of images, from its draw to its scores, as one CUDA graph, where it can be captured.
    """
    start = time.perf_counter()
    with evaluating(algorithm):
        features = embedded(
            algorithm, sampler, episodes=episodes, tasks=tasks, dtype=dtype, before_batch=before_batch,
            processes=processes,
        )  # fmt: skip
        model, source = (algorithm.on_features(), features) if features else (algorithm, sampler)
        tasks *= FEATURE_TASKS if features else 1
        device = sampler.source.device
        cuda_graph &= features is None and sampler.source.on_device and not sampler.padded

        def score(first: Tensor, tasks: int) -> tuple[Tensor, ...]:
            batch = source.sample(first, tasks)
            with autocast(device, dtype):
                return _tested(model, batch, first, every_step=every_step, padded=sampler.padded)

        batches = _Batches(score, tasks, device=device, cuda_graph=cuda_graph)
        parts = []
        for start_of_round in range(0, episodes, tasks * processes.size):
            before_batch()
            first = start_of_round + tasks * processes.rank
            if first < episodes:
                parts.append(batches(first, min(tasks, episodes - first)))
            advance(min(tasks * processes.size, episodes - start_of_round))
    accuracy, finite, classes, loss = _in_order(parts, processes)
    return Evaluation(
        accuracy[:, -1], accuracy, classes, loss.mean().item(), time.perf_counter() - start, finite,
        embedded_once=features is not None,
    )  # fmt: skip


class _Batches:
    """`score` of one batch of episodes after the other; those of `tasks` episodes are one CUDA graph."""

    def __init__(self, score: Score, tasks: int, *, device: torch.device, cuda_graph: bool) -> None:
        self.score, self.tasks, self.device = score, tasks, device
        self._captured = Captured(self._keep_scores, name="the test of a batch") if cuda_graph else None
        self._kept: tuple[Tensor, ...] = ()

    def __call__(self, first: int, tasks: int) -> tuple[Tensor, ...]:
        number = torch.full((), first, device=self.device)
        if self._captured is None or tasks != self.tasks:
            return self.score(number, tasks)
        self._captured(number)
        return tuple(t.clone() for t in self._kept)

    def _keep_scores(self, first: Tensor) -> None:
        found = self.score(first, self.tasks)
        self._kept = self._kept or tuple(torch.empty_like(t) for t in found)
        for kept, t in zip(self._kept, found, strict=True):
            kept.copy_(t)


def _tested(
    algorithm: Algorithm, batch: Episode, first: Tensor, *, every_step: bool, padded: bool
) -> tuple[Tensor, ...]:  # fmt: skip
    """Per episode: accuracy after each step [T, S+1], whether all was finite, classes [T, N], loss.

    padded: the episodes differ in size, and each is adapted to by itself, without padding, so that every algorithm can.
    """
    scores = [
        _scores(_predictions(algorithm, episodes, first + t, every_step=every_step), episodes)
        for t, episodes in enumerate(batch.unpadded() if padded else [batch])
    ]
    accuracy, finite, loss = _joined(scores)
    return accuracy, finite, batch.classes, loss


@contextmanager
def evaluating(algorithm: Algorithm) -> Iterator[None]:
    """In evaluation mode, without gradients; afterwards in the mode of before."""
    was_training = algorithm.training
    algorithm.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        algorithm.train(was_training)


def _predictions(algorithm: Algorithm, batch: Episode, first: Tensor, *, every_step: bool) -> list[Tensor]:
    """Logits [T, N*Q, N] of episodes first, first + 1, ...: at the end, or after each inner step."""
    task, number = (torch.arange(n, device=batch.query_y.device) for n in batch.query_y.shape)
    order = random.mix(random.mix(QUERY_ORDER, task + first)[:, None], number).argsort(-1)  # [T, N*Q]
    query_x = batch.query_x.flatten(0, 1)[(order + number.numel() * task[:, None]).flatten()]
    query_x = query_x.view(batch.query_x.shape)
    back = order.argsort(-1)[..., None].expand(*order.shape, batch.ways)
    adapt = algorithm.adaptation if every_step else lambda *a, **k: [algorithm.adapt(*a, **k)]
    name, found = type(algorithm).__name__, list[Tensor]()
    states = adapt(batch.support_x, batch.support_y, ways=batch.ways)
    if not isinstance(states, Iterable):
        raise InputError(f"{name}.adaptation gave a {type(states).__name__}; it yields states")
    for state in states:
        logits = algorithm.predict(state, query_x)
        check_logits(f"{name}.predict", logits, batch)
        found.append(logits.float().gather(1, back))
    if not found:
        raise InputError(
            f"{name}.adaptation gave no state; it yields that after 0, 1, ... inner steps, the last being adapt's"
        )
    return found


def _scores(steps: list[Tensor], batch: Episode) -> tuple[Tensor, ...]:
    """Per episode: accuracy after each step, whether all was finite, loss."""
    accuracy = torch.stack([episode_accuracy(logits, batch.query_y) for logits in steps], -1)
    finite = torch.stack([logits.isfinite().flatten(1).all(1) for logits in steps]).all(0)
    loss = cross_entropy(steps[-1].mT, batch.query_y, reduction="none").double().mean(-1)
    return accuracy, finite, loss


def _in_order(parts: list[tuple[Tensor, ...]], processes: Processes) -> tuple[Tensor, ...]:
    """The batches of all processes as they come in the stream, on the CPU."""
    gathered = processes.gather([[tensor.cpu() for tensor in part] for part in parts])
    rounds = itertools.zip_longest(*gathered)  # batch i was process i % size's
    batches = [part for one_round in rounds for part in one_round if part is not None]
    return _joined(batches)


def _joined(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Scores of episodes after each other; of each part the first is the accuracy after each step [T, S+1]."""
    if len(numbers := sorted({part[0].shape[1] for part in parts})) > 1:
        raise InputError(f"adaptation gave {numbers} states for different episodes; it yields as many for all")
    return tuple(torch.cat(p) for p in zip(*parts, strict=True))


def raw_pixels(
    sampler: EpisodeSampler, *, episodes: int, tasks: int, advance: Callable[[int], None] = lambda episodes: None
) -> Mean:
    """The baseline that learns nothing: nearest class mean in pixel space, on the same episodes."""
    parts = []
    for first in range(0, episodes, tasks):
        batch = sampler.sample(first, min(tasks, episodes - first))
        for e in batch.unpadded() if sampler.padded else [batch]:
            support, query = e.support_x.flatten(2), e.query_x.flatten(2)
            parts.append(class_mean_accuracy(support, e.support_y, query, e.query_y, e.ways))
        advance(len(batch.query_y))
    return mean_ci95(torch.cat(parts))
