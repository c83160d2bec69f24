"""Accuracy on a fixed stream of episodes, and the two baselines beside it. Layer 3."""

import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fewshot.algorithms.base import Algorithm
from fewshot.engine.processes import ALONE, Processes
from fewshot.engine.runtime import autocast
from fewshot.metrics import Mean, class_mean_accuracy, episode_accuracy, mean_ci95
from fewshot.sampler import EpisodeSampler


class Evaluation(NamedTuple):
    """What E episodes gave; accuracies in percent."""

    accuracy: Tensor  # [E] float64
    step_accuracy: Tensor  # [E, S+1] float64, after 0..S inner steps; S = 0 where there are none
    classes: Tensor  # [E, N] int64 class ids of the data set
    loss: float  # mean cross-entropy of the queries
    seconds: float

    @property
    def mean(self) -> Mean:
        return mean_ci95(self.accuracy)

    def summary(self) -> dict[str, float]:
        """The fields of `test` and `val` in result.json."""
        return {"accuracy": self.mean.value, "accuracy_ci95": self.mean.ci95,
                "episodes": len(self.accuracy), "loss": self.loss}  # fmt: skip


def evaluate(
    algorithm: Algorithm,
    sampler: EpisodeSampler,
    *,
    episodes: int,
    tasks: int,
    dtype: torch.dtype | None = None,
    every_step: bool = False,
    between: Callable[[], None] = lambda: None,
    processes: Processes = ALONE,
) -> Evaluation:
    """Adapt to and predict episodes 0..episodes-1 of the stream, `tasks` at a time, without gradients.

    every_step: also predict after each inner step. between: called before each batch (to stop early).
    processes: take turns at the batches and hand each other what they gave: all return the same, and the same
    as one process alone.
    """
    was_training = algorithm.training
    algorithm.eval()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    start = time.perf_counter()
    with torch.no_grad():
        for first in range(0, episodes, tasks * processes.size):
            between()
            first += tasks * processes.rank
            if first >= episodes:
                continue
            batch = sampler.sample(first, min(tasks, episodes - first))
            with autocast(sampler.source.device, dtype):
                args = (batch.support_x, batch.support_y)
                if every_step:
                    states = algorithm.adaptation(*args, ways=batch.ways)
                    steps = [algorithm.predict(s, batch.query_x).float() for s in states]
                else:
                    state = algorithm.adapt(*args, ways=batch.ways)
                    steps = [algorithm.predict(state, batch.query_x).float()]
            accuracy = torch.stack([episode_accuracy(logits, batch.query_y) for logits in steps], -1)
            loss = cross_entropy(steps[-1].mT, batch.query_y, reduction="none").double().mean(-1)
            parts.append((accuracy, batch.classes, loss))
    accuracy, classes, loss = _in_order(parts, processes)
    algorithm.train(was_training)
    seconds = time.perf_counter() - start
    return Evaluation(accuracy[:, -1], accuracy, classes, loss.mean().item(), seconds)


def _in_order(parts: list[tuple[Tensor, Tensor, Tensor]], processes: Processes) -> tuple[Tensor, ...]:
    """The batches of all processes as they come in the stream, on the CPU."""
    gathered = processes.gather([[tensor.cpu() for tensor in part] for part in parts])
    rounds = itertools.zip_longest(*gathered)  # batch i was process i % size's
    batches = [part for one_round in rounds for part in one_round if part is not None]
    return tuple(torch.cat(p) for p in zip(*batches, strict=True))


def raw_pixels(sampler: EpisodeSampler, *, episodes: int, tasks: int) -> Mean:
    """The baseline that learns nothing: nearest class mean in pixel space, on the same episodes."""
    parts = []
    for first in range(0, episodes, tasks):
        batch = sampler.sample(first, min(tasks, episodes - first))
        support, query = batch.support_x.flatten(2), batch.query_x.flatten(2)
        parts.append(class_mean_accuracy(support, batch.support_y, query, batch.query_y, batch.ways))
    return mean_ci95(torch.cat(parts))
