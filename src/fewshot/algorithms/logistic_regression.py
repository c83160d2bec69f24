"""Logistic regression on a trained classifier's embeddings, the test head of RFS (Tian et al. 2020, arXiv:2003.11539).

    (1)  min_W,b  C sum_i -log softmax(W x_i + b)[y_i] + |W|^2 / 2       x = f(image) / |f(image)|, RFS: C = 1
    (2)  Newton's method: each step solves  Hessian step = -gradient  by conjugate gradients, and is halved
         until (1) falls. P = softmax(X W' + b):
         gradient = C X'(P - Y) + W,   Hessian V = C X'(P * (XV - sum_n P XV)) + V     (b without the penalty)

The objective is that of scikit-learn's LogisticRegression(C=C); its solution is unique, and so the same.

Shapes: embeddings [T, M, D], onehot [T, M, N], logits [T, P, N]. Any number of images per class. Inductive.
"""

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import normalize

from fewshot.algorithms.embedding_head import Linear, LinearHead
from fewshot.episode import Minibatches
from fewshot.errors import check_above
from fewshot.ops.similarities import with_ones

NEWTON_STEPS, CG_STEPS, HALVINGS = 30, 100, 20
TOLERANCE = 1e-6  # of the gradient, and of the remainder of a linear system, relative to their first


class LogisticRegression(LinearHead):
    def __init__(
        self, backbone: Module, *, train_classes: int, stream: Minibatches, label_smoothing: float = 0.0, C: float
    ) -> None:
        super().__init__(backbone, train_classes=train_classes, stream=stream, label_smoothing=label_smoothing)
        check_above("algorithm", 0, C=C)
        self.C = C

    def transformed(self, z: Tensor) -> Tensor:
        return normalize(z.double(), dim=-1)

    def fit(self, x: Tensor, onehot: Tensor) -> Linear:
        weight = fit_logistic(x, onehot, self.C)
        return Linear(weight[:, :-1], weight[:, -1:])


def fit_logistic(x: Tensor, onehot: Tensor, C: float | Tensor) -> Tensor:
    """(1) for T tasks: x [T, M, D], onehot [T, M, N] float64 -> weight and, in the last row, bias, [T, D + 1, N].

    A row without a label, all zeros in `onehot`, does not count. C: a number, or [T, 1, 1] for one of each task.
    """
    if x.shape[1] < x.shape[2]:  # W lies in the span of the images: M numbers for each class do instead of D
        basis = torch.linalg.qr(x.mT).Q  # [T, D, M]
        w = fit_logistic(x @ basis, onehot, C)
        return torch.cat([basis @ w[:, :-1], w[:, -1:]], 1)
    x = with_ones(x)
    penalty = torch.ones_like(x[:, :1]).mT  # [T, D + 1, 1]
    penalty[:, -1] = 0
    counts = onehot.sum(-1, keepdim=True)  # [T, M, 1]
    each = C.flatten() if isinstance(C, Tensor) else C

    def objective(w: Tensor) -> Tensor:
        fit = (onehot * (x @ w).log_softmax(-1)).sum((1, 2))
        return (penalty * w * w).sum((1, 2)) / 2 - each * fit  # [T]

    w = x.new_zeros(len(x), x.shape[-1], onehot.shape[-1])
    value, first = objective(w), None
    for _ in range(NEWTON_STEPS):
        p = counts * (x @ w).softmax(-1)  # [T, M, N]
        gradient = C * x.mT @ (p - onehot) + penalty * w
        size = gradient.square().sum((1, 2))
        first = size if first is None else first
        going = size > TOLERANCE**2 * first
        if not going.any():
            break
        # a solved task stays as it is, whatever tasks are beside it
        step = torch.where(going[:, None, None], _conjugate_gradients(x, p, C, penalty, -gradient), 0)
        for _ in range(HALVINGS):  # of the tasks where (1) would grow
            found = objective(w + step)
            if (better := found <= value).all():
                break
            step = torch.where(better[:, None, None], step, step / 2)
        w = torch.where(better[:, None, None], w + step, w)  # no step is left where rounding hides the fall
        value = torch.where(better, found, value)
    return w


def _conjugate_gradients(x: Tensor, p: Tensor, C: float | Tensor, penalty: Tensor, b: Tensor) -> Tensor:
    """v with Hessian v = b, for each task; all of [T, D + 1, N] but p [T, M, N]."""
    v, r, d = torch.zeros_like(b), b, b
    size = first = b.square().sum((1, 2), keepdim=True)  # [T, 1, 1]
    for _ in range(CG_STEPS):
        going = size > TOLERANCE**2 * first
        if not going.any():
            break
        xd = x @ d
        hd = C * x.mT @ (p * (xd - (p * xd).sum(-1, keepdim=True))) + penalty * d
        curvature = (d * hd).sum((1, 2), keepdim=True)
        # a solved task stays as it is: past its end only the direction without curvature is left, the same for all b
        rate = torch.where(going & (curvature > 0), size / curvature, 0)
        v, r = v + rate * d, r - rate * hd
        before, size = size, r.square().sum((1, 2), keepdim=True)
        d = r + size / before.clamp(min=torch.finfo(b.dtype).tiny) * d
    return v
