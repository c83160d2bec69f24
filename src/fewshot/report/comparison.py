"""Settings in pairs over the same test episodes, corrected for many comparisons. Layer 5.

A difference is the mean over test episodes of what two settings reach in each, averaged over their seeds; its 95 %
interval is narrower than that of either. Whether two can be told apart is judged at 5 % after the correction of
Holm (1979, Scandinavian Journal of Statistics 6:65-70) over all pairs of a report: of all that it tells apart, the
chance that any two are in truth alike is at most 5 %. Chance here is that of the episodes, not of training anew.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch

from fewshot.errors import InputError
from fewshot.metrics import Z95, Mean, paired_difference
from fewshot.printable import printable
from fewshot.report.groups import Group, same_classes
from fewshot.report.runs import RunRecord

LEVEL = 0.05


@dataclass(frozen=True)
class Pair:
    """Two groups by their numbers in a report."""

    a: int
    b: int
    difference: Mean  # accuracy of a minus that of b, points
    p: float  # two-sided, after Holm's correction

    @property
    def apart(self) -> bool:
        """Whether they can be told apart."""
        return self.p <= LEVEL


class Comparison:
    """All pairs of groups that were tested on the same episodes. unlike: why others could not be compared."""

    def __init__(self, groups: Sequence[Group]) -> None:
        found: list[tuple[int, int, Mean]] = []
        self.unlike: list[str] = []
        for a, b in combinations(range(len(groups)), 2):
            if groups[a].cell == groups[b].cell:
                try:
                    found.append((a, b, paired(groups[a], groups[b])))
                except InputError as error:
                    self.unlike.append(str(error))
        corrected = holm([p_value(difference) for *_, difference in found])
        self.pairs = [Pair(*pair, p) for pair, p in zip(found, corrected, strict=True)]
        self._by_groups = {frozenset((pair.a, pair.b)): pair for pair in self.pairs}

    def between(self, a: int, b: int) -> Pair | None:
        """The pair as a minus b; None where they cannot be compared."""
        pair = self._by_groups.get(frozenset((a, b)))
        if pair is None or pair.a == a:
            return pair
        return Pair(a, b, Mean(-pair.difference.value, pair.difference.ci95), pair.p)


def p_value(difference: Mean) -> float:
    """Two-sided, by the normal distribution as the interval is; 1 for a single episode."""
    if difference.value == 0 or math.isnan(difference.ci95) or math.isnan(difference.value):
        return 1.0
    return math.erfc(abs(difference.value) * Z95 / difference.ci95 / math.sqrt(2)) if difference.ci95 else 0.0


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values: the i-th smallest of m times m - i, never below a smaller one's, at most 1."""
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def paired(a: Group, b: Group) -> Mean:
    """Accuracy of a minus that of b over the same test episodes, seeds averaged, with the difference's interval.

    InputError, with the values, where the episodes are not the same.
    """
    one, other = a.runs[0], b.runs[0]
    keys = ("dataset", "split", "ways", "shots", "queries")
    facts = [(key, one.result[key], other.result[key]) for key in keys]
    facts += [(key, one.result["protocol"].get(key), other.result["protocol"].get(key)) for key in
              ("split_hash", "eval_seed", "within_groups")]  # fmt: skip
    balance = [run.result["protocol"].get("query_balance", "uniform") for run in (one, other)]  # 0.1 had no other
    files = [run.result["protocol"].get("episodes_file") for run in (one, other)]
    facts += [("query_balance", *balance), ("episodes_file", *files)]
    facts.append(("episodes", one.result["test"]["episodes"], other.result["test"]["episodes"]))
    differing = [f"{key} {x} and {y}" for key, x, y in facts if x != y]
    if differing:
        raise InputError(
            f"{_both(one, other)} were not tested on the same episodes ({'; '.join(differing)}); "
            f"fewshot evaluate tests a run under another protocol"
        )
    for run in (*a.runs, *b.runs):
        if not run.episodes:
            raise InputError(f"{printable(run.path)} has no episodes/test.npz, which pairs need; evaluate it again")
    for run in (*a.runs[1:], *b.runs):
        if not same_classes(one.episodes, run.episodes):
            classes, others = one.episodes["classes"], run.episodes["classes"]
            alike = classes.shape == others.shape
            differ = int((classes != others).any(-1).sum()) if alike else len(classes)
            raise InputError(
                f"{_both(one, run)} were not tested on the same episodes: the classes of {differ} of "
                f"{len(classes)} differ; evaluate both with one version of fewshot"
            )
    accuracies = [group.episode_accuracy for group in (a, b)]
    return paired_difference(*[torch.from_numpy(accuracy) for accuracy in accuracies if accuracy is not None])


def _both(a: RunRecord, b: RunRecord) -> str:
    return f"{printable(a.path)} and {printable(b.path)}"
