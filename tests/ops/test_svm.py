"""Crammer and Singer's SVM: scikit-learn's weights, SciPy's dual, the conditions of optimality, the gradient."""

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, minimize
from sklearn.svm import LinearSVC
from torch import Tensor

from fewshot.ops.svm import crammer_singer

C = 0.1


def tasks(tasks: int, ways: int, shots: int, width: int, size: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings [T, M, D], labels [T, M] and their one-hot form [T, M, N], in float64."""
    y = torch.arange(ways).repeat_interleave(shots).repeat(tasks, 1)
    onehot = torch.nn.functional.one_hot(y, ways).double()
    centres = torch.randn(tasks, ways, width, dtype=torch.float64)
    x = onehot @ centres + 2 * torch.randn(tasks, ways * shots, width, dtype=torch.float64)
    return size * x, y, onehot


@pytest.mark.parametrize("size", [0.3, 3.0])
@pytest.mark.parametrize(("ways", "shots"), [(2, 1), (5, 1), (5, 5), (10, 3)])
def test_its_weights_are_scikit_learns(ways: int, shots: int, size: float) -> None:
    """K + I is the Gram matrix of embeddings with a unit vector of each image's own at their end."""
    x, y, onehot = tasks(2, ways, shots, 16, size)
    x = torch.cat([x, torch.eye(ways * shots, dtype=x.dtype).expand(2, -1, -1)], -1)
    found = crammer_singer(x @ x.mT, onehot, c=C, iterations=20).mT @ x  # [T, N, D + M]
    for t in range(2):
        svc = LinearSVC(multi_class="crammer_singer", C=C, fit_intercept=False, tol=1e-8, max_iter=100_000)
        expected = svc.fit(x[t].numpy(), y[t].numpy()).coef_
        if ways == 2:  # scikit-learn keeps the difference of the two
            np.testing.assert_allclose(found[t, 1] - found[t, 0], expected[0], atol=1e-5)
        else:
            np.testing.assert_allclose(found[t], expected, atol=1e-5)


def test_its_dual_variables_are_scipys() -> None:
    x, _, onehot = tasks(1, 3, 2, 8)
    kernel, shape = (x @ x.mT + torch.eye(6))[0].numpy(), onehot[0].shape
    bounds = [(None, C * value) for value in onehot[0].flatten().tolist()]
    sums = LinearConstraint(np.kron(np.eye(6), np.ones((1, 3))), 0, 0)  # sum_k z_ik = 0

    def objective(z: np.ndarray) -> float:
        table = z.reshape(shape)
        return 0.5 * np.sum(table * (kernel @ table)) - np.sum(table * onehot[0].numpy())

    reference = minimize(objective, np.zeros(18), bounds=bounds, constraints=sums, method="SLSQP",
                         options={"ftol": 1e-15, "maxiter": 1000})  # fmt: skip
    found = crammer_singer(torch.from_numpy(kernel)[None], onehot, c=C, iterations=20)[0]
    np.testing.assert_allclose(found, reference.x.reshape(shape), atol=1e-6)


def test_conditions_of_optimality_with_unequal_shots() -> None:
    y = torch.tensor([[0, 0, 0, 1, 2, 2], [2, 1, 1, 1, 1, 0]])
    onehot = torch.nn.functional.one_hot(y, 3).double()
    x = onehot @ torch.randn(2, 3, 8, dtype=torch.float64) + torch.randn(2, 6, 8, dtype=torch.float64)
    kernel = x @ x.mT + torch.eye(6)
    z = crammer_singer(kernel, onehot, c=C, iterations=30)
    assert (z <= C * onehot + 1e-9).all()
    torch.testing.assert_close(z.sum(-1), torch.zeros(2, 6, dtype=z.dtype), rtol=0, atol=1e-9)
    downhill = onehot - kernel @ z  # where z is free to grow this is the same for all classes, and the largest
    best = downhill.masked_fill(C * onehot - z < 1e-6, -torch.inf).amax(-1, keepdim=True)
    assert (downhill - best >= -1e-6).all()  # at the bound the pull is upwards
    free = C * onehot - z > 1e-6
    torch.testing.assert_close((downhill - best)[free], torch.zeros(int(free.sum())).double(), rtol=0, atol=1e-6)


def test_its_gradient() -> None:
    """By differences along one direction; the solution is piecewise smooth, and the step stays on a piece."""
    x, _, onehot = tasks(2, 3, 2, 6)
    mixed, direction = torch.randn(onehot.shape, dtype=torch.float64), torch.randn_like(x)

    def value(step: Tensor) -> Tensor:
        moved = x + step * direction
        kernel = moved @ moved.mT + torch.eye(6, dtype=x.dtype)
        return (mixed * crammer_singer(kernel, onehot, c=C, iterations=30)).sum()

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value(step).backward()
    assert step.grad.abs() > 1e-3
    torch.testing.assert_close(step.grad, (value(step + 1e-6) - value(step - 1e-6)) / 2e-6, rtol=1e-6, atol=1e-9)


def test_float32_in_float32_out() -> None:
    x, _, onehot = tasks(2, 5, 5, 16)
    kernel = x @ x.mT + torch.eye(25)
    found = crammer_singer(kernel.float(), onehot.float(), c=C, iterations=20)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), crammer_singer(kernel, onehot, c=C, iterations=20), rtol=0, atol=1e-5)
