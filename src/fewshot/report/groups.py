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

from fewshot.errors import InputError
from fewshot.metrics import Mean, mean_ci95, paired_difference
from fewshot.report.runs import RunRecord

# Sizes of training episodes, which follow those of the test unless they are set.
FOLLOWING = ("train_ways", "train_shots", "algorithm.stream.ways", "algorithm.stream.shots")


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
        tested = self.step_accuracy
        return None if tested is None else mean_ci95(torch.from_numpy(tested[:, -1])).ci95

    @cached_property
    def step_accuracy(self) -> np.ndarray | None:
        """[E, S+1] percent after 0..S inner steps, mean over seeds; None where the episodes differ or are missing."""
        first = self.runs[0].episodes
        if not all(same_classes(first, run.episodes) for run in self.runs):
            return None
        return np.mean([run.episodes["step_accuracy"] for run in self.runs], axis=0)

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
    return sorted(groups, key=lambda g: [g.result[key] for key in ("dataset", "split", "algorithm", "ways", "shots")])


def labels(groups: Sequence[Group]) -> list[str]:
    """A name for each group: its algorithm, and the settings in which it differs from that algorithm's other groups.

    Ways and shots are not named: they have columns and axes of their own.
    """
    settings = [_comparable(group) for group in groups]
    found = []
    for group, own in zip(groups, settings, strict=True):
        same_algorithm = [
            s for g, s in zip(groups, settings, strict=True) if _cell(g, "algorithm") == _cell(group, "algorithm")
        ]
        differing = [key for key in own if any(other.get(key) != own[key] for other in same_algorithm)]
        alone = sum(_cell(g) == _cell(group) for g in groups) == 1
        differences = [] if alone else [f"{key.split('.')[-1].lstrip('_')}={own[key]}" for key in differing]
        kind = [] if group.runs[0].kind == "train" else ["evaluated"]
        found.append(", ".join([str(group.result["algorithm"]), *dict.fromkeys(differences), *kind]))
    return found


def _cell(group: Group, *keys: str) -> tuple[Any, ...]:
    keys = keys or ("algorithm", "dataset", "split", "ways", "shots")
    return (group.runs[0].kind, *[group.result[key] for key in keys])


def _comparable(group: Group) -> dict[str, Any]:
    """The setting without ways and shots, and without the training sizes that follow them."""
    setting = group.runs[0].setting
    own = {key: value for key, value in setting.items() if key not in ("ways", "shots")}
    for key in FOLLOWING:
        of_the_test = "ways" if key.endswith("ways") else "shots"
        if key in own and own[key] == setting.get(of_the_test):
            del own[key]
    return own


def paired(a: RunRecord, b: RunRecord) -> Mean:
    """Accuracy of a minus that of b over the same test episodes, with the interval of the difference.

    InputError, with the values, where the episodes are not the same.
    """
    keys = ("dataset", "split", "ways", "shots", "queries")
    facts = [(key, a.result[key], b.result[key]) for key in keys]
    facts += [(key, a.result["protocol"].get(key), b.result["protocol"].get(key)) for key in
              ("split_hash", "eval_seed", "within_groups")]  # fmt: skip
    balance = [run.result["protocol"].get("query_balance", "uniform") for run in (a, b)]  # version 0.1 had no other
    files = [run.result["protocol"].get("episodes_file") for run in (a, b)]
    facts += [("query_balance", *balance), ("episodes_file", *files)]
    facts.append(("episodes", a.result["test"]["episodes"], b.result["test"]["episodes"]))
    differing = [f"{key} {x} and {y}" for key, x, y in facts if x != y]
    if differing:
        raise InputError(
            f"{a.path} and {b.path} were not tested on the same episodes ({'; '.join(differing)}); "
            f"fewshot evaluate tests a run under another protocol"
        )
    for run in (a, b):
        if not run.episodes:
            raise InputError(f"{run.path} has no episodes/test.npz, which pairs need; fewshot evaluate run={run.path}")
    if not same_classes(a.episodes, b.episodes):
        differ = (a.episodes["classes"] != b.episodes["classes"]).any(-1)
        raise InputError(
            f"{a.path} and {b.path} were not tested on the same episodes: the classes of {int(differ.sum())} of "
            f"{len(differ)} differ; evaluate both with one version of fewshot"
        )
    return paired_difference(*[torch.from_numpy(run.episodes["accuracy"]) for run in (a, b)])
