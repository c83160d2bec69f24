"""Logistic regression: scikit-learn's probabilities, and the condition of an optimum."""

import numpy as np
import pytest
import torch
from sklearn import linear_model
from toy_data import Identity, clusters

from fewshot.algorithms.logistic_regression import LogisticRegression, fit_logistic
from fewshot.episode import Minibatches
from fewshot.errors import InputError
from fewshot.ops.similarities import with_ones


def logistic(C: float = 1.0, features: int = 6) -> LogisticRegression:
    return (
        LogisticRegression(Identity(features), train_classes=5, stream=Minibatches(batch_size=8), C=C).double().eval()
    )


@pytest.mark.parametrize(
    ("copies", "shots", "features", "C", "tol"),
    [
        (1, 1, 64, 1.0, 1e-4),
        (5, 1, 640, 1.0, 1e-4),
        (5, 5, 640, 1.0, 1e-4),
        (1, 5, 8000, 1.0, 1e-4),
        (1, 5, 64, 50.0, 1e-8),
    ],
)
def test_probabilities_are_scikit_learns(copies: int, shots: int, features: int, C: float, tol: float) -> None:
    """On embeddings of the sizes that networks give (Conv4 64, ResNet-12 640, R2D2's 8064), as RFS calls it (tol 1e-4).

    With little regularisation it stops too early for that.
    """
    support, y, query, _ = clusters(tasks=2, ways=5, shots=shots, queries=15, features=features)
    changed = (support.repeat_interleave(copies, 1) + 0.1 * torch.randn(2, 5 * shots * copies, features)).abs()
    labels = y.repeat_interleave(copies, 1)
    model = logistic(C, features)
    ours = model.predict(model.adapt(changed, labels, ways=5), query).softmax(-1)
    for t in range(2):
        x, q = (torch.nn.functional.normalize(z[t], dim=-1).numpy() for z in (changed, query))
        theirs = linear_model.LogisticRegression(C=C, tol=tol, max_iter=1000).fit(x, labels[t].numpy()).predict_proba(q)
        np.testing.assert_allclose(ours[t], theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("C", "features"), [(1.0, 6), (1000.0, 6), (100.0, 300)])
def test_the_gradient_is_zero_in_every_task(C: float, features: int) -> None:
    x, y, _, _ = clusters(shots=3, features=features)
    onehot = torch.nn.functional.one_hot(y, 4).double()
    w = fit_logistic(x, onehot, C).requires_grad_()
    fit = torch.nn.functional.cross_entropy((with_ones(x) @ w).mT, y, reduction="sum")
    (C * fit + w[:, :-1].square().sum() / 2).backward()
    assert w.grad is not None
    assert w.grad.abs().max() < 1e-4 * C


def test_tasks_together_are_the_tasks_one_by_one() -> None:
    """Some are solved long before the others, one at once, and one has every image twice."""
    x = torch.nn.functional.normalize(torch.rand(40, 50, 60, dtype=torch.float64), dim=-1)
    x[0], x[1, 25:] = 0, x[1, :25]
    x[2] *= 30
    onehot = torch.nn.functional.one_hot(torch.arange(50) // 5, 10).double().expand(40, -1, -1)
    together = fit_logistic(x, onehot, 10.0)
    for t in (0, 1, 2, 3, 39):
        alone = fit_logistic(x[t : t + 1], onehot[t : t + 1], 10.0)
        torch.testing.assert_close(together[t : t + 1], alone, rtol=0, atol=1e-6)


def test_a_solved_task_stays_as_it_is_while_others_go_on() -> None:
    """A number added to every bias changes no probability: along it a solved task would drift."""
    x = torch.nn.functional.normalize(torch.randn(2, 25, 10, dtype=torch.float64), dim=-1)
    x[1] *= 30
    onehot = torch.eye(5, dtype=torch.float64).repeat_interleave(5, 0).expand(2, -1, -1)
    together = fit_logistic(x, onehot, 1.0)
    for t in range(2):
        alone = fit_logistic(x[t : t + 1], onehot[t : t + 1], 1.0)
        torch.testing.assert_close(together[t : t + 1], alone, rtol=0, atol=1e-8)


def test_without_features_the_bias_gives_the_shares_of_the_classes() -> None:
    x = torch.zeros(1, 6, 3, dtype=torch.float64)
    onehot = torch.nn.functional.one_hot(torch.tensor([[0, 0, 0, 1, 1, 2]]), 3).double()
    p = (with_ones(x) @ fit_logistic(x, onehot, 1.0)).softmax(-1)
    torch.testing.assert_close(p[0, 0], torch.tensor([3, 2, 1], dtype=torch.float64) / 6)


def test_queries_are_classified_by_embeddings_of_length_one() -> None:
    support, y, query, query_y = clusters(shots=3, noise=0.1)
    model = logistic(10.0)
    logits = model.predict(model.adapt(support, y, ways=4), query)
    assert (logits.argmax(-1) == query_y).double().mean() > 0.9
    torch.testing.assert_close(model.predict(model.adapt(7 * support, y, ways=4), 3 * query), logits)
    half = model.float().predict(model.adapt(support.float(), y, ways=4), query.float())
    torch.testing.assert_close(half.double(), logits, rtol=1e-3, atol=1e-4)


def test_c_is_above_zero() -> None:
    with pytest.raises(InputError, match=r"algorithm.C=-1 is not above 0"):
        logistic(-1)
