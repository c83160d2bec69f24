"""From scores to probabilities, with the accuracy one can expect. Layer 4, NumPy alone.

The accuracy is estimated without a test set: each support picture is classified by what was learned from the others.
The temperature of the probabilities and the threshold below which a picture is called unknown come from the same.

Shapes: scores and probabilities [M, N] float64, higher for likelier classes; y [M] int in 0..N-1.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fewshot.own_pictures.heads import cross_entropy
from fewshot.own_pictures.unit_features import Array, chunks, unit

SCALE = 10.0  # of scores near 0 and 1, where no class has a second picture to calibrate by
SCALES = np.logspace(-1, 2.5, 141)  # that are tried
Z95 = 1.959963984540054  # as in metrics.py, which imports torch


class Judged(NamedTuple):
    """Scores of support and query pictures."""

    left_out: Array  # [M, N] of the support pictures, each judged by what was learned without it
    query: Array  # [P, N]
    near: Array  # [P, K] int the support pictures that are most like each query, the nearest first


def nearest(query: Array, support: Array) -> Array:
    """Support pictures most like each query, by cosine: [P, V, D], [M, V, D] -> [P, K]; see `most_alike`."""

    def means(z: Array) -> Array:
        cuts = chunks(len(z), z[0].size)
        parts = [unit(unit(z[cut], rooted=True).mean(1), rooted=False).astype(np.float32) for cut in cuts]
        return np.concatenate(parts)

    return most_alike(means(query), means(support))


def most_alike(query: Array, support: Array, most: int = 3) -> Array:
    """[P, D], [M, D], both of length 1 -> the rows of `support` nearest to each query, the nearest first [P, K].

    By distance from the support's mean, which for vectors of one length is the order of their cosines: in products of
    the vectors themselves, what all have in common would cost the digits that tell them apart.
    """
    centre = support.mean(0, dtype=np.float64).astype(support.dtype)
    query, support = query - centre, support - centre
    half, cuts = (support * support).sum(1) / 2, chunks(len(query), len(support))
    return np.concatenate([np.argsort(half - query[cut] @ support.T, axis=1, kind="stable")[:, :most] for cut in cuts])


def softmax(scores: Array) -> Array:
    """Probabilities over the last axis."""
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def scale_of(left_out: Array, y: Array) -> float:
    """softmax(scale * scores) are calibrated probabilities; `SCALE` where every class has one picture."""
    told = has_others(y)
    return best_scale(left_out[told], y[told]) if told.any() else SCALE


def has_others(y: Array) -> Array:
    """[M]: whether the class of a picture has another one; one without cannot be recognised without itself."""
    return np.bincount(y)[y] > 1


def best_scale(scores: Array, y: Array) -> float:
    """The inverse temperature of `SCALES` of the least mean -log p(y), which is convex in it: scores [M, N], y [M]."""

    def grows(i: int) -> bool:
        return cross_entropy(SCALES[i + 1] * scores, y) >= cross_entropy(SCALES[i] * scores, y)

    return float(SCALES[bisect_left(range(len(SCALES) - 1), True, key=grows)])


class Accuracy(NamedTuple):
    """Percent right, with its 95 % interval (Wilson 1927), of `pictures` pictures."""

    value: float
    low: float
    high: float
    pictures: int

    def __str__(self) -> str:
        return f"{self.value:.1f} % (95 % interval {self.low:.1f} to {self.high:.1f}, {self.pictures} pictures)"


def accuracy(right: Array) -> Accuracy | None:
    """right [M] bool -> how many are; None where there are no pictures."""
    n = len(right)
    if not n:
        return None
    p, z = float(right.mean()), Z95 * Z95 / n
    middle, half = (p + z / 2) / (1 + z), math.sqrt(z * p * (1 - p) + z * z / 4) / (1 + z)
    return Accuracy(100 * p, 100 * max(0.0, middle - half), 100 * min(1.0, middle + half), n)


def threshold(probabilities: Array, y: Array, share: float) -> float:
    """The probability below which `share` of the left-out support pictures [M, N] would be called unknown."""
    known = probabilities[has_others(y)].max(-1)
    return float(np.quantile(known, share)) if len(known) else 0.0


class Findings(NamedTuple):
    """What leaving out the support pictures has shown."""

    accuracy: Accuracy | None  # None: every class has one picture
    single: list[int]  # classes with one picture, which it says nothing about
    per_class: dict[int, Accuracy]
    mixed_up: list[tuple[int, int, int]]  # two classes and how often one was taken for the other, most first


def findings(left_out: Array, y: Array) -> Findings:
    """From the scores [M, N] of the left-out support pictures and their classes [M]."""
    told, ways = has_others(y), left_out.shape[-1]
    truth, taken = y[told], left_out[told].argmax(-1)
    wrong = [sorted(pair) for pair in zip(truth.tolist(), taken.tolist(), strict=True) if pair[0] != pair[1]]
    per_class = {c: accuracy(taken[truth == c] == c) for c in range(ways)}
    return Findings(
        accuracy(taken == truth),
        [c for c, found in per_class.items() if found is None],
        {c: found for c, found in per_class.items() if found is not None},
        [(a, b, n) for (a, b), n in Counter(map(tuple, wrong)).most_common()],
    )


def advice(found: Findings, names: Sequence[str]) -> str:
    """A plain sentence on what to do next."""
    if found.accuracy is None:
        return "Add a second picture of each class: with one alone, nothing can be said about the accuracy."
    if found.single:
        return f"Add a second picture of {_names(found.single, names)}: with one, nothing can be said about it."
    weak = sorted((a.value, c) for c, a in found.per_class.items() if a.value < min(90.0, found.accuracy.value))
    if not weak:
        return "No class stands out as weak; more pictures of every class make it surer."
    return f"Add pictures of {_names([c for _, c in weak], names)} first: they are recognised least."


def mixed_up(found: Findings, names: Sequence[str]) -> str | None:
    """Which two classes are taken for each other most; None where none are."""
    if not found.mixed_up:
        return None
    a, b, n = found.mixed_up[0]
    return f"Most often mixed up: {names[a]} and {names[b]} ({n} of {found.accuracy and found.accuracy.pictures})."


def _names(classes: Sequence[int], names: Sequence[str], most: int = 3) -> str:
    shown = [names[c] for c in classes[:most]]
    more = len(classes) - most
    if more > 0:
        return f"{', '.join(shown)} and {more} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]
