"""Heads: classifiers of pictures by features of a few, each picture in several views. Layer 4, NumPy alone.

    x = unit(root(z))  or  unit(z - centre)          of each view; root keeps the sign; centre is 0 but for cl2n
    scores = mean over the views of  x W + b

    ridge     regression on the labels, in closed form (ridge.py)
    cosine    W_c = unit(mean of class c's x), b = 0             nearest class mean by cosine
    cl2n      the same, centre the mean of all support views     (SimpleShot, arXiv:1911.04623)
    logistic  multinomial logistic regression on the mean over a picture's views, C by folds
                                                                  (algorithms/logistic_regression.py)

Ridge leaves each picture out in closed form, the others by fitting again without each of up to 20 folds.

Shapes: features [M, V, D] of M pictures in V views, y [M] int in 0..N-1, any number of each; scores [M, N], float64.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from fewshot.errors import InputError, check_choice
from fewshot.own_pictures.ridge import ridge
from fewshot.own_pictures.unit_features import Array, chunks, mean_view, unit

HEADS = ("ridge", "logistic", "cosine", "cl2n")
STRENGTHS = (10.0, 1.0, 100.0)  # C of logistic regression; the first where no picture can be left out
FOLDS = 20
MOST = 5e8  # pictures x features x classes of logistic regression: some ten minutes on two cores


class Head(NamedTuple):
    """What was learned; linear on features of unit length."""

    weight: Array  # [D, N]
    bias: Array  # [N]
    centre: Array  # [D]
    rooted: bool

    def scores(self, features: Array) -> Array:
        """[P, V, D] -> [P, N]."""
        every = np.arange(len(features))
        return mean_view(features, every, rooted=self.rooted, centre=self.centre) @ self.weight + self.bias


def fit(kind: str, features: Array, y: Array, ways: int) -> tuple[Head, Array]:
    """The head, and the scores [M, N] of the support pictures, each judged by what was learned without it."""
    check_choice("head", kind, HEADS)
    if kind == "ridge":
        weight, bias, left_out = ridge(features, y, ways)
        return Head(weight, bias, np.zeros(len(weight)), True), left_out
    every = np.arange(len(y))
    if kind == "logistic":
        return logistic(mean_view(features, every, rooted=True), y, ways)
    return _nearest_mean(kind, features, every, y, ways), by_folds(
        lambda rows, t, out: _nearest_mean(kind, features, rows, t, ways).scores(features[out]), every, y, ways
    )


def _nearest_mean(kind: str, features: Array, rows: Array, y: Array, ways: int) -> Head:
    """Learned from the pictures `rows` of features [M, V, D], of classes y [len(rows)]."""
    centre = np.zeros(features.shape[-1])
    if kind == "cl2n":
        for cut in chunks(len(rows), features[0].size):
            centre += features[rows[cut]].mean(1, dtype=np.float64).sum(0) / len(rows)
    x = mean_view(features, rows, rooted=False, centre=centre)
    means = np.stack([x[y == c].mean(0) for c in range(ways)])
    return Head(unit(means, rooted=False).T, np.zeros(ways), centre, False)


def logistic(x: Array, y: Array, ways: int) -> tuple[Head, Array]:
    """x [M, D] -> the head, and left-out scores [M, N].

    C is the one of least left-out -log p(y); folds are fitted with each C as tasks of a batch, as many as CHUNK allows.
    InputError where it would take hours.
    """
    if len(x) * x.shape[1] * ways > MOST:
        raise InputError(
            f"head=logistic would take hours with {len(x)} pictures of {ways} classes; head=ridge takes minutes"
        )
    import torch

    from fewshot.algorithms.logistic_regression import fit_logistic
    from fewshot.ops.similarities import with_ones

    basis = np.linalg.qr(x.T)[0]  # [D, R]: the weights lie in the span of the rows
    parts = [np.zeros(0, dtype=int), *folds(y)]  # nothing left out, then each fold
    stay = np.stack([~np.isin(np.arange(len(y)), part) for part in parts])  # [F, M]
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64).repeat_interleave(len(parts))[:, None, None]
    small = torch.from_numpy(x @ basis).expand(len(strengths), -1, -1)
    labels = torch.from_numpy(stay[..., None] * np.eye(ways)[y]).repeat(len(STRENGTHS), 1, 1)  # [C F, M, N]
    cuts = list(chunks(len(strengths), small[0].numel()))
    weight = torch.cat([fit_logistic(small[cut], labels[cut], strengths[cut]) for cut in cuts])
    scores = (with_ones(small[:1]) @ weight).numpy().reshape(len(STRENGTHS), len(parts), len(y), ways)
    left_out = np.zeros((len(STRENGTHS), len(y), ways))
    for fold, part in enumerate(parts[1:], 1):
        left_out[:, part] = scores[:, fold, part]
    told = np.concatenate(parts)
    best = int(np.argmin([cross_entropy(one[told], y[told]) for one in left_out])) if len(told) else 0
    found = weight[best * len(parts)].numpy()  # [R + 1, N]
    return Head(basis @ found[:-1], found[-1], np.zeros(len(basis)), True), left_out[best]


def by_folds(
    judge: Callable[[Array, Array, Array], Array], support: Array, y: Array, ways: int, most: int = FOLDS
) -> Array:
    """Scores [M, N] of the support pictures, each fold judged by the others: judge(support, y, query) -> scores.

    A class's only picture is in no fold: its scores are 0.
    """
    scores = np.zeros((len(y), ways))
    for out in folds(y, most):
        stay = np.setdiff1d(np.arange(len(y)), out)
        scores[out] = judge(support[stay], y[stay], support[out])
    return scores


def folds(y: Array, most: int = FOLDS) -> Iterator[Array]:
    """Up to `most` (2 or more) sets of pictures that leave together; each alone where there are no more, never a class
    whole."""
    order = np.argsort(y, kind="stable")
    told = order[np.bincount(y)[y[order]] > 1]
    for first in range(min(most, len(told))):
        yield told[first::most]


def cross_entropy(scores: Array, y: Array) -> float:
    """Mean -log softmax(scores)[y]: scores [M, N], y [M]."""
    top = scores.max(1, keepdims=True)
    logsum = np.log(np.exp(scores - top).sum(1)) + top[:, 0]
    return float((logsum - scores[np.arange(len(y)), y]).mean())
