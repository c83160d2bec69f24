"""MetaOptNet: scikit-learn's support vector machine, and ridge regression, on learned embeddings."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC
from torch import nn
from toy_data import Identity, clusters

from fewshot.algorithms.metaoptnet import MetaOptNet
from fewshot.episode import Episode, Episodes
from fewshot.errors import InputError
from fewshot.testing import check_algorithm


def metaoptnet(backbone: nn.Module | None = None, **options: Any) -> MetaOptNet:
    defaults: dict[str, Any] = {"head": "svm", "c": 0.1, "iterations": 20, "penalty": 0.7, "scale": 3.0}
    stream = Episodes(tasks=2, ways=3, shots=2, queries=2)
    return MetaOptNet(backbone or Identity(6), stream=stream, **(defaults | options)).double()


@pytest.mark.parametrize("shots", [1, 5])
def test_the_svm_is_scikit_learns(shots: int) -> None:
    x, y, query, _ = clusters(shots=shots)
    model = metaoptnet().eval()
    found = model.predict(model.adapt(x, y, ways=4), query)
    for t in range(len(x)):
        slack = np.hstack([x[t].numpy(), np.eye(len(x[t]))])  # whose Gram matrix is K + I
        svc = LinearSVC(multi_class="crammer_singer", C=0.1, fit_intercept=False, tol=1e-8, max_iter=100_000)
        weights = svc.fit(slack, y[t].numpy()).coef_[:, :6]
        np.testing.assert_allclose(found[t].detach(), 3 * query[t].numpy() @ weights.T, atol=1e-5)


@pytest.mark.parametrize("shots", [1, 5])
def test_ridge_is_twice_scikit_learns(shots: int) -> None:
    x, y, query, _ = clusters(shots=shots)
    model = metaoptnet(head="ridge").eval()
    found = model.predict(model.adapt(x, y, ways=4), query)
    for t in range(len(x)):
        fitted = Ridge(alpha=0.7, fit_intercept=False, solver="svd").fit(x[t].numpy(), np.eye(4)[y[t].numpy()])
        np.testing.assert_allclose(found[t].detach(), 6 * fitted.predict(query[t].numpy()), rtol=1e-9, atol=1e-12)


def test_ridge_keeps_an_algorithms_contract() -> None:
    assert [str(f) for f in check_algorithm(metaoptnet(head="ridge"), image_shape=(6,)) if not f.ok] == []


@pytest.mark.parametrize("head", ["svm", "ridge"])
def test_the_gradient_runs_through_the_solution(head: str) -> None:
    """Of the embedding's one weight, by differences of the loss."""

    class Scaled(nn.Module):
        out_features = 6

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight

    model = metaoptnet(Scaled(), head=head)
    batch = Episode(*clusters(), torch.arange(4).repeat(3, 1))
    weight = model.backbone.weight
    model(batch).loss.backward()
    gradient = weight.grad[2].item()
    values = []
    for step in (-1e-5, 1e-5):
        with torch.no_grad():
            weight[2] += step
            values.append(model(batch).loss.item())
            weight[2] -= step
    assert gradient == pytest.approx((values[1] - values[0]) / 2e-5, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "mlp"}, r"algorithm\.head=mlp is unknown; choose svm or ridge"),
        ({"c": 0.0}, r"algorithm\.c=0\.0 is not above 0"),
        ({"penalty": -1.0}, r"algorithm\.penalty=-1\.0 is not above 0"),
        ({"iterations": 0}, r"algorithm\.iterations=0 is below 1"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        metaoptnet(**options)


def test_the_protocol_is_on_record() -> None:
    assert metaoptnet(head="ridge").protocol() == {"head": "ridge", "norm_statistics": "running"}
