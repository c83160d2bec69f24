"""Groups of runs that differ only in seed, with the spread over seeds and the interval over episodes. Layer 5."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from fewshot.metrics import mean_ci95
from fewshot.report.runs import RunRecord
from fewshot.sizes import numbers


@dataclass(frozen=True)
class Group:
    """Finished runs of one setting, one for each seed."""

    runs: Sequence[RunRecord]

    @property
    def result(self) -> Mapping[str, Any]:
        """The first run's result: the settings and the protocol are the same in all of them."""
        return self.runs[0].result

    @property
    def seeds(self) -> list[int]:
        return [run.result["seed"] for run in self.runs]

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy of each seed, percent."""
        return [run.result["test"]["accuracy"] for run in self.runs]

    @property
    def accuracy(self) -> float:
        """Mean over seeds."""
        return fmean(self.accuracies)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds: what training anew changes. None for a single one."""
        return stdev(self.accuracies) if len(self.runs) > 1 else None

    @cached_property
    def ci95(self) -> float | None:
        """Half width of the interval over test episodes of the mean over seeds, each episode's accuracy being its
        mean over the seeds; None where the runs were not tested on the same episodes.
        """
        if len(self.runs) == 1:
            return float(self.result["test"]["accuracy_ci95"])
        tested = self.episode_accuracy
        return None if tested is None else mean_ci95(torch.from_numpy(tested)).ci95

    @property
    def episode_accuracy(self) -> np.ndarray | None:
        """[E] percent, mean over seeds; None where the episodes differ or are missing."""
        return self._over_seeds("accuracy")

    @cached_property
    def step_accuracy(self) -> np.ndarray | None:
        """[E, S+1] percent after 0..S inner steps, mean over seeds; None where the episodes differ or are missing."""
        return self._over_seeds("step_accuracy")

    def _over_seeds(self, name: str) -> np.ndarray | None:
        first, found = self.runs[0].episodes, [run.episodes.get(name) for run in self.runs]
        same = all(same_classes(first, run.episodes) for run in self.runs)
        same = same and len({array.shape for array in found if array is not None}) == 1
        return np.mean([array for array in found if array is not None], axis=0) if same else None

    @property
    def inner_steps(self) -> int:
        """Inner steps at test, as far as their accuracies are known."""
        return 0 if self.step_accuracy is None else self.step_accuracy.shape[1] - 1

    def mean(self, *path: str) -> float | None:
        """Mean over seeds of a number in result.json, such as mean("timing", "train_seconds"); None where it lacks."""
        values = [value for run in self.runs if (value := _at(run.result, path)) is not None]
        return fmean(values) if values else None

    @property
    def paper(self) -> Mapping[str, Any] | None:
        return self.result.get("paper")

    @property
    def verdicts(self) -> str:
        """`reproduced`, or with several seeds `2 reproduced, 1 below`."""
        counts = Counter(run.result["paper"]["verdict"] for run in self.runs if run.result.get("paper"))
        return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{n} {word}" for word, n in counts.items())

    @property
    def task(self) -> str:
        """`5-way 1-shot`."""
        return f"{self.result['ways']}-way {self.result['shots']}-shot"

    @property
    def cell(self) -> tuple[str, int | str, int | str]:
        """The data that it is tested on, ways and shots."""
        return self.tested_on, self.result["ways"], self.result["shots"]

    @property
    def size(self) -> list[list[int]]:
        """Ways and shots, to sort by."""
        return [numbers(self.result[key]) for key in ("ways", "shots")]

    @property
    def tested_on(self) -> str:
        """`omniglot test`."""
        return f"{self.result['dataset']} {self.result['split']}"


def _at(tree: Any, path: Iterable[str]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def same_classes(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return bool(a) and bool(b) and np.array_equal(a["classes"], b["classes"])


def grouped(runs: Iterable[RunRecord]) -> list[Group]:
    """Groups of the finished runs by data, algorithm, ways and shots; of runs that are alike, the newest counts."""
    settings: dict[str, dict[int, RunRecord]] = {}
    for run in runs:
        if run.finished:
            key = json.dumps([run.kind, run.result["split"], run.setting], sort_keys=True, default=str)
            settings.setdefault(key, {})[run.result["seed"]] = run
    groups = [Group([by_seed[seed] for seed in sorted(by_seed)]) for by_seed in settings.values()]
    words = ("dataset", "split", "algorithm")
    return sorted(groups, key=lambda g: ([g.result[key] for key in words], g.size))
