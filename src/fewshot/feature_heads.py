"""Heads: classifiers of pictures by features of a few, each picture in several views. Layer 3, NumPy alone.

    x = unit(root(z))  or  unit(z - centre)          of each view; root keeps the sign; centre is 0 but for cl2n
    scores = mean over the views of  x W + b

    cosine    W_c = unit(mean of class c's x), b = 0             nearest class mean by cosine
    cl2n      the same, centre the mean of all support views     (SimpleShot, arXiv:1911.04623)
    logistic  multinomial logistic regression on the mean over a picture's views, C by folds
                                                                  (algorithms/logistic_regression.py)
    ridge     regression on the labels, in closed form            (algorithms/ridge.py has it for batches of tasks):
        (1)  min_W,b  sum_i w_i |y_i - x_i W - b|^2 + strength |W|^2      y_i one-hot; w_i = 1 / rows of i's class
        (2)  A = rows sqrt(w_i) (x_i - mean_w) = U S V',  e = S^2,  shrink = e / (e + strength)
             H = U shrink U' + sqrt(w) sqrt(w)' / sum(w)                  fitted = H y, both weighted
        (3)  y_b - prediction without b = (I - H_bb)^-1 (y_b - fitted_b)  b: the views of a picture; no refitting
        (4)  the strength of least sum_i w_i |left-out error of row i|^2 over a grid, each row left out alone

The others leave pictures out by fitting again without each of up to 20 folds.

Shapes: features [M, V, D] of M pictures in V views, y [M] int in 0..N-1, any number of each; scores [M, N], float64.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from fewshot.errors import check_choice

HEADS = ("ridge", "logistic", "cosine", "cl2n")
GRID = 10 ** np.arange(-4, 1.5, 0.5)  # strengths, as multiples of the mean of A's squared rows
STRENGTHS = (10.0, 1.0, 100.0)  # C of logistic regression; the first where no picture can be left out
FOLDS = 20
Array = np.ndarray


class Head(NamedTuple):
    """What was learned; linear on features of unit length."""

    weight: Array  # [D, N]
    bias: Array  # [N]
    centre: Array  # [D]
    rooted: bool

    def scores(self, features: Array) -> Array:
        """[P, V, D] -> [P, N]."""
        return unit(features, rooted=self.rooted, centre=self.centre).mean(1) @ self.weight + self.bias


def fit(kind: str, features: Array, y: Array, ways: int) -> tuple[Head, Array]:
    """The head, and the scores [M, N] of the support pictures, each judged by what was learned without it."""
    check_choice("head", kind, HEADS)
    features = features.astype(np.float64)
    if kind == "ridge":
        x = unit(features, rooted=True)
        weight, bias, left_out = ridge(x, y, ways)
        return Head(weight, bias, np.zeros(x.shape[-1]), True), left_out
    if kind != "logistic":
        return _nearest_mean(kind, features, y, ways), by_folds(
            lambda z, t, q: _nearest_mean(kind, z, t, ways).scores(q), features, y, ways
        )
    return logistic(unit(features, rooted=True).mean(1), y, ways)


def unit(z: Array, *, rooted: bool, centre: Array | float = 0.0) -> Array:
    """[..., D] float64 of length 1, or 0 where it is 0."""
    z = z.astype(np.float64) - centre
    if rooted:
        z = np.sign(z) * np.sqrt(np.abs(z))
    return z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-12)


def _nearest_mean(kind: str, features: Array, y: Array, ways: int) -> Head:
    centre = features.mean((0, 1)) if kind == "cl2n" else np.zeros(features.shape[-1])
    x = unit(features, rooted=False, centre=centre).mean(1)
    means = np.stack([x[y == c].mean(0) for c in range(ways)])
    return Head(unit(means, rooted=False).T, np.zeros(ways), centre, False)


def logistic(x: Array, y: Array, ways: int) -> tuple[Head, Array]:
    """x [M, D] -> the head, and left-out scores [M, N].

    C is the one of least left-out -log p(y); all folds are fitted with each C at once, as tasks of one batch.
    """
    import torch

    from fewshot.algorithms.logistic_regression import fit_logistic, with_ones

    basis = np.linalg.qr(x.T)[0]  # [D, R]: the weights lie in the span of the rows
    parts = [np.zeros(0, dtype=int), *folds(y)]  # nothing left out, then each fold
    stay = np.stack([~np.isin(np.arange(len(y)), part) for part in parts])  # [F, M]
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64).repeat_interleave(len(parts))[:, None, None]
    small = torch.from_numpy(x @ basis).expand(len(strengths), -1, -1)
    labels = torch.from_numpy(stay[..., None] * np.eye(ways)[y]).repeat(len(STRENGTHS), 1, 1)  # [C F, M, N]
    weight = fit_logistic(small, labels, strengths)
    scores = (with_ones(small) @ weight).numpy().reshape(len(STRENGTHS), len(parts), len(y), ways)
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


def ridge(x: Array, y: Array, ways: int) -> tuple[Array, Array, Array]:
    """x [M, V, D] of unit length, y [M] -> weight [D, N] and bias [N] of (1), left-out scores [M, N] by (3)."""
    pictures, views, _ = x.shape
    rows, onehot = x.reshape(pictures * views, -1), np.eye(ways)[y].repeat(views, 0)
    w = (onehot / onehot.sum(0)).sum(1, keepdims=True)  # [M V, 1]
    total, root = w.sum(), np.sqrt(w)
    mean_x, mean_y = (w * rows).sum(0) / total, (w * onehot).sum(0) / total
    a, b = root * (rows - mean_x), root * (onehot - mean_y)
    u, e = left_singular(a)  # (2)
    basis, ub = np.concatenate([root / np.sqrt(total), u], 1), u.T @ b
    grid = GRID * max(float((a * a).sum(1).mean()), 1e-12)
    errors = [np.square(_without(1, basis, e / (e + s), ub, b)).sum() for s in grid]
    strength = grid[int(np.argmin(errors))]  # (4)
    weight = a.T @ (u @ (ub / (e + strength)[:, None]))  # V S / (e + strength) U' b
    left_out = onehot - _without(views, basis, e / (e + strength), ub, b) / root
    return weight, mean_y - mean_x @ weight, left_out.reshape(pictures, views, ways).mean(1)


def left_singular(a: Array) -> tuple[Array, Array]:
    """Left singular vectors [M, R] and squared singular values [R] of a [M, D], R = min(M, D)."""
    if a.shape[0] <= a.shape[1]:
        e, u = np.linalg.eigh(a @ a.T)
        return u, np.maximum(e, 0)
    e, v = np.linalg.eigh(a.T @ a)
    e = np.maximum(e, 0)
    held = e > e[-1] * np.finfo(float).eps * len(a)  # directions without variance have no u
    return np.where(held, a @ v / np.sqrt(np.where(held, e, 1)), 0), e


def _without(together: int, basis: Array, shrink: Array, ub: Array, b: Array) -> Array:
    """(3): the weighted residual [M V, N] of each row, left out with its neighbours, `together` in succession."""
    shrunk = basis * np.concatenate([[1.0], shrink])
    residual = (b - shrunk[:, 1:] @ ub).reshape(-1, together, b.shape[1])
    parts = basis.reshape(len(residual), together, -1)
    hat = shrunk.reshape(parts.shape) @ parts.transpose(0, 2, 1)  # [M V / together, together, together]
    return np.linalg.solve(np.eye(together) - hat, residual).reshape(b.shape)
