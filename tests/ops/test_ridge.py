"""Ridge regression: scikit-learn's solution, whichever of the two systems is the smaller one."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from fewshot.ops.ridge import ridge

TASKS, N = 3, 4


@pytest.mark.parametrize(("m", "d"), [(6, 20), (20, 6), (8, 8)])
def test_it_is_scikit_learns(m: int, d: int) -> None:
    x, y = torch.randn(TASKS, m, d, dtype=torch.float64), torch.randn(TASKS, m, N, dtype=torch.float64)
    found = ridge(x, y, 0.7)
    for t in range(TASKS):
        expected = Ridge(alpha=0.7, fit_intercept=False, solver="svd").fit(x[t].numpy(), y[t].numpy()).coef_
        np.testing.assert_allclose(found[t].mT, expected, rtol=1e-9, atol=1e-12)


def test_autocast_does_not_round_it() -> None:
    x, y = torch.randn(TASKS, 6, 20), torch.randn(TASKS, 6, N)
    plain = ridge(x, y, 0.7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ridge(x, y, 0.7), plain)
