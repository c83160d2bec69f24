"""Ridge regression on the class labels, its strength chosen by leaving one image out, in closed form.

Rifkin & Lippert 2007, "Notes on regularized least squares" (MIT-CSAIL-TR-2007-025), section 3:

    x = normalize( sign(z) sqrt|z| )  or  normalize( z ),  z = f(image)      embeddings of unit length
    (1)  min_W,b  sum_i w_i |y_i - W x_i - b|^2 + strength |W|^2             y_i one-hot; w_i = 1 / images of i's class
    (2)  A = rows sqrt(w_i) (x_i - mean_w) = U S V',  e = S^2,  shrink = e / (e + strength)
         H = U shrink U' + sqrt(w) sqrt(w)' / sum(w)                         the hat matrix: fitted = H y, both weighted
    (3)  y_i - prediction without i = (y_i - fitted_i) / (1 - H_ii)          weighted as in (2), no refitting
    (4)  the strength of least sum_i w_i |(3)|^2 over a grid

The weights make classes with few images count as much as those with many. The root is the power normalisation of
Perronnin et al. 2010 (ECCV, "Improving the Fisher kernel"): it evens out the few large values of an embedding.

Shapes: embeddings x [T, M, D], onehot [T, M, N], logits [T, P, N]. Any number of images per class. Inductive.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import normalize

from fewshot.algorithms.embedding_head import Linear, LinearHead
from fewshot.episode import Minibatches
from fewshot.errors import check_above

GRID = tuple(10 ** (k / 2) for k in range(-8, 3))  # strengths, as multiples of the mean of A's squared rows


class Fit(NamedTuple):
    """(1) solved for T tasks."""

    weight: Tensor  # [T, D, N]
    bias: Tensor  # [T, 1, N]
    left_out: Tensor  # [T, M, N] predictions (3) for the support images, each left out alone


class Ridge(LinearHead):
    def __init__(
        self, backbone: Module, *, train_classes: int, stream: Minibatches, label_smoothing: float = 0.0,
        scale: float, square_root: bool,
    ) -> None:  # fmt: skip
        super().__init__(backbone, train_classes=train_classes, stream=stream, label_smoothing=label_smoothing)
        check_above("algorithm", 0, scale=scale)
        self.scale, self.square_root = scale, square_root

    def transformed(self, z: Tensor) -> Tensor:
        return unit_length(z.double(), square_root=self.square_root)

    def fit(self, x: Tensor, onehot: Tensor) -> Linear:
        fit = fit_ridge(x, onehot)
        return Linear(self.scale * fit.weight, self.scale * fit.bias)


def unit_length(z: Tensor, *, square_root: bool) -> Tensor:
    """Embeddings [..., D] of length 1; square_root: each value is replaced by its root first, its sign kept."""
    return normalize(z.sign() * z.abs().sqrt() if square_root else z, dim=-1)


def fit_ridge(x: Tensor, onehot: Tensor) -> Fit:
    """x [T, M, D], onehot [T, M, N] -> the solution of (1); in float64."""
    w = (onehot / onehot.sum(1, keepdim=True)).sum(-1, keepdim=True)  # [T, M, 1]
    total, root = w.sum(1, keepdim=True), w.sqrt()
    mean_x, mean_y = ((w * v).sum(1, keepdim=True) / total for v in (x, onehot))
    a, y = root * (x - mean_x), root * (onehot - mean_y)
    u, e = left_singular(a)  # (2)  [T, M, R], [T, R]
    uy = u.mT @ y  # [T, R, N]
    basis = (root / total.sqrt(), u)
    grid = e.new_tensor(GRID)[:, None, None] * a.square().sum(-1).mean(1).clamp(min=1e-12)[:, None]  # [G, T, 1]
    errors = torch.stack([_without(basis, e / (e + s), uy, y).square().sum((1, 2)) for s in grid])  # [G, T]
    strength = grid[errors.argmin(0), torch.arange(len(x), device=x.device)]  # (4)  [T, 1]
    weight = a.mT @ (u @ (uy / (e + strength)[..., None]))  # V S / (e + strength) U' y
    left_out = onehot - _without(basis, e / (e + strength), uy, y) / root
    return Fit(weight, mean_y - mean_x @ weight, left_out)


def left_singular(a: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors [T, M, R] and squared singular values [T, R] of a [T, M, D], R = min(M, D)."""
    if a.shape[1] <= a.shape[2]:
        e, u = torch.linalg.eigh(a @ a.mT)
        return u, e.clamp(min=0)
    e, v = torch.linalg.eigh(a.mT @ a)
    e = e.clamp(min=0)
    small = e <= e[:, -1:] * torch.finfo(e.dtype).eps * a.shape[1]  # directions without variance have no u
    return (a @ v) * torch.where(small, 0, e).clamp(min=torch.finfo(e.dtype).tiny).rsqrt()[:, None] * ~small[:, None], e


def _without(basis: tuple[Tensor, Tensor], shrink: Tensor, uy: Tensor, y: Tensor) -> Tensor:
    """(3): the weighted residual [T, M, N] of each row, left out alone."""
    root, u = basis
    shrunk = u * shrink[:, None]
    hat = (shrunk * u).sum(-1, keepdim=True) + root.square()  # [T, M, 1]
    return (y - shrunk @ uy) / (1 - hat)
