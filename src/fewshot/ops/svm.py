"""The multi-class support vector machine of many tasks in one batch, differentiable. Layer 0."""

from typing import NamedTuple

import torch
from torch import Tensor

CENTRING = 0.1  # each step aims at a tenth of the complementarity
TO_BOUNDARY = 0.99  # of the longest step that keeps slack and multipliers positive


class _Point(NamedTuple):
    """Dual variables z, slack C y - z, multipliers of the bound and of the sums: [T, N, M] three times, [T, M]."""

    z: Tensor
    slack: Tensor
    bound: Tensor
    sums: Tensor


def crammer_singer(kernel: Tensor, onehot: Tensor, *, c: float, iterations: int) -> Tensor:
    """The dual variables of Crammer and Singer's SVM (2001), by a primal-dual interior-point method.

        argmin_z  1/2 sum_k z_k' K z_k - sum_i z_{i, y_i}    with z_ik <= C [y_i = k] and sum_k z_ik = 0

    kernel: [T, M, M], positive definite. onehot: [T, M, N], the classes y. c: C, above 0. Returns z: [T, M, N] in the
    kernel's dtype; solved in float64. The number of iterations is fixed, so that nothing is asked of the device.

    The classes share nothing but the sums, so a Newton step factorises N matrices of M rows, and one more, instead of
    one of M*N rows. The last step is differentiated: at the solution that is the implicit function theorem's gradient
    by the kernel, and nothing is kept of the steps before.
    """
    k, y = kernel.double(), onehot.double().mT  # [T, N, M]
    with torch.no_grad():
        point = _start(k, y, c)
        for _ in range(iterations):
            point = _moved(point, _newton_step(k, y, point))
    return (point.z + _newton_step(k, y, point).z).mT.to(kernel.dtype)


def _start(k: Tensor, y: Tensor, c: float) -> _Point:
    """Inside all bounds and on all equations, where the Newton steps then stay."""
    slack = torch.full_like(y, c / y.shape[1])
    z = c * y - slack
    gradient = y - z @ k  # K z_k for each class k; K is symmetric
    sums = gradient.amin(1) - 1
    return _Point(z, slack, gradient - sums[:, None], sums)


def _newton_step(k: Tensor, y: Tensor, at: _Point) -> _Point:
    """Towards  K z_k - y_k + bound_k + sums = 0,  sum_k z_k = 0,  bound * slack = CENTRING * its mean now."""
    target = CENTRING * (at.bound * at.slack).mean((1, 2), keepdim=True) / at.slack
    stationarity = at.z @ k - y + at.bound + at.sums[:, None]
    stiffness = at.bound / at.slack
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(k[:, None] + torch.diag_embed(stiffness)).L)
    free = (inverse @ (at.bound - target - stationarity)[..., None])[..., 0]  # the step if nothing had to sum to 0
    sums = torch.linalg.solve_ex(inverse.sum(1), (free + at.z).sum(1)[..., None]).result  # [T, M, 1]
    z = free - (inverse @ sums[:, None])[..., 0]
    return _Point(z, -z, target - at.bound + stiffness * z, sums[..., 0])


def _moved(at: _Point, step: _Point) -> _Point:
    """A step of one length per task that stays inside the bounds."""
    ratios = torch.cat([step.slack / at.slack, step.bound / at.bound], 1).flatten(1)
    length = (TO_BOUNDARY / (-ratios).amax(1).clamp(min=1e-30)).clamp(max=1.0)  # [T]
    by_point = (length[:, None, None],) * 3 + (length[:, None],)
    return _Point(*[a + t * s for a, t, s in zip(at, by_point, step, strict=True)])
