"""From labelled pictures to probabilities of new ones, with the accuracy one can expect. Layer 3.

The accuracy is estimated without a test set: each support picture is classified by what was learned from the others.
The temperature of the probabilities and the threshold below which a picture is called unknown come from the same.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.algorithms.ridge import fit_ridge, unit_length
from fewshot.metrics import Z95
from fewshot.ops.similarities import cosines

SCALE = 10.0  # of scores near 0 and 1, where a class has no second picture to calibrate by
SCALES = torch.logspace(-1, 2.5, 141, dtype=torch.float64)  # that are tried


class Judged(NamedTuple):
    """Scores of support and query pictures, higher for likelier classes."""

    left_out: Tensor  # [M, N] of the support pictures, each judged by what was learned without it
    query: Tensor  # [P, N]
    near: Tensor  # [P, K] int64 the support pictures that are most like each query, the nearest first


def by_ridge(support: Tensor, y: Tensor, ways: int, query: Tensor) -> Judged:
    """Ridge regression on features: support [M, V, D] in V views, y [M] in 0..N-1, any number of each; query [P, V, D].

    The views of a support picture are learned from like so many pictures, and left out together; a picture's scores
    are the mean over its views.
    """
    views = support.shape[1]
    x, q = (unit_length(z.double(), square_root=True) for z in (support, query))
    onehot = torch.nn.functional.one_hot(y.repeat_interleave(views), ways).double()
    fit = fit_ridge(x.flatten(0, 1)[None], onehot[None], copies=views)
    left_out = fit.left_out[0].unflatten(0, (-1, views)).mean(1)
    return Judged(left_out, q.mean(1) @ fit.weight[0] + fit.bias[0], nearest(q.mean(1), x.mean(1)))


def nearest(query: Tensor, support: Tensor, most: int = 3) -> Tensor:
    """Places of the support pictures most like each query, by cosine: [P, D], [M, D] -> [P, most]."""
    return cosines(query, support).topk(min(most, len(support)), dim=-1).indices


def scale_of(left_out: Tensor, y: Tensor) -> float:
    """softmax(scale * scores) are calibrated probabilities; `SCALE` where every class has one picture."""
    told = has_others(y)
    return best_scale(left_out[told], y[told]) if told.any() else SCALE


def has_others(y: Tensor) -> Tensor:
    """[M]: whether the class of a picture has another one; one without cannot be recognised without itself."""
    return y.bincount()[y] > 1


def best_scale(scores: Tensor, y: Tensor) -> float:
    """The inverse temperature of the least mean -log p(y): scores [M, N], y [M]."""
    loss = [torch.nn.functional.cross_entropy(s * scores, y) for s in SCALES]
    return float(SCALES[torch.stack(loss).argmin()])


class Accuracy(NamedTuple):
    """Percent right, with its 95 % interval (Wilson 1927), of `pictures` pictures."""

    value: float
    low: float
    high: float
    pictures: int

    def __str__(self) -> str:
        return f"{self.value:.1f} % (95 % interval {self.low:.1f} to {self.high:.1f}, {self.pictures} pictures)"


def accuracy(right: Tensor) -> Accuracy | None:
    """right [M] bool -> how many are; None where there are no pictures."""
    n = len(right)
    if not n:
        return None
    p, z = right.double().mean().item(), Z95 * Z95 / n
    middle, half = (p + z / 2) / (1 + z), math.sqrt(z * p * (1 - p) + z * z / 4) / (1 + z)
    return Accuracy(100 * p, 100 * max(0.0, middle - half), 100 * min(1.0, middle + half), n)


def threshold(probabilities: Tensor, y: Tensor, share: float) -> float:
    """The probability below which `share` of the left-out support pictures [M, N] would be called unknown."""
    known = probabilities[has_others(y)].amax(-1)
    return float(known.quantile(share)) if len(known) else 0.0


class Findings(NamedTuple):
    """What leaving out the support pictures has shown."""

    accuracy: Accuracy | None  # None: every class has one picture
    single: list[int]  # classes with one picture, which it says nothing about
    per_class: dict[int, Accuracy]
    mixed_up: list[tuple[int, int, int]]  # two classes and how often one was taken for the other, most first


def findings(left_out: Tensor, y: Tensor) -> Findings:
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
