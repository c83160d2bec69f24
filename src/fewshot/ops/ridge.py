"""Ridge regression of many tasks in one batch, in closed form. Layer 0."""

import torch
from torch import Tensor

from fewshot.ops.similarities import product


def ridge(x: Tensor, y: Tensor, penalty: Tensor | float) -> Tensor:
    """argmin_W |X W - Y|^2 + penalty |W|^2 = X'(X X' + penalty I)^-1 Y = (X'X + penalty I)^-1 X'Y (Woodbury).

    x: [T, M, D], y: [T, M, N], both float32 or float64; penalty: above 0, or
    [T, 1, 1] of such. Returns [T, D, N] in x's dtype.
    The smaller of the two systems is solved, of M or of D equations. Nothing is copied from the device.
    """
    if x.shape[1] <= x.shape[2]:
        return product(x.mT, _solve(product(x, x.mT), y, penalty))
    return _solve(product(x.mT, x), product(x.mT, y), penalty)


def _solve(a: Tensor, b: Tensor, penalty: Tensor | float) -> Tensor:
    """(a + penalty I)^-1 b for [T, P, P] and [T, P, N]."""
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return torch.linalg.solve_ex(a + penalty * identity, b).result
