"""R2D2: ridge regression as scikit-learn has it, with a learned scale."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from toy_data import Identity, clusters

from fewshot.algorithms.r2d2 import R2D2
from fewshot.episode import Episode, Episodes
from fewshot.errors import InputError

STREAM = Episodes(tasks=2, ways=3, shots=2, queries=2)


def r2d2(width: int = 6, *, penalty: float = 0.3, learn_penalty: bool = False, scale: float = 7.0) -> R2D2:
    options: dict[str, Any] = {"penalty": penalty, "learn_penalty": learn_penalty, "scale": scale}
    model = R2D2(Identity(width), stream=STREAM, **options).double()
    model.log_penalty.data.fill_(math.log(penalty))  # it was rounded to float32
    return model


def expected(x: Tensor, y: Tensor, query: Tensor, *, ways: int, penalty: float, scale: float) -> np.ndarray:
    """One task: (1) with a bias that is penalised like the weights, and its sum of squares as a mean."""
    ones, of_query = (np.hstack([z.numpy(), np.ones((len(z), 1))]) for z in (x, query))
    fitted = Ridge(alpha=penalty * len(x), fit_intercept=False, solver="svd").fit(ones, np.eye(ways)[y.numpy()])
    return scale * fitted.predict(of_query)


@pytest.mark.parametrize("shots", [1, 5])  # 4 images of 7 numbers: the dual; 20 of them: the primal
def test_logits_are_scaled_ridge_predictions(shots: int) -> None:
    x, y, query, _ = clusters(shots=shots)
    model = r2d2().eval()
    found = model.predict(model.adapt(x, y, ways=4), query)
    for t in range(len(x)):
        value = expected(x[t], y[t], query[t], ways=4, penalty=0.3, scale=7.0)
        np.testing.assert_allclose(found[t].detach(), value, rtol=1e-9, atol=1e-12)


def test_classes_may_have_unequal_numbers_of_shots() -> None:
    x, y = torch.rand(1, 6, 6, dtype=torch.float64), torch.tensor([[0, 2, 2, 1, 2, 0]])
    model = r2d2()
    found = model.predict(model.adapt(x, y, ways=3), x)
    value = expected(x[0], y[0], x[0], ways=3, penalty=0.3, scale=7.0)
    np.testing.assert_allclose(found[0].detach(), value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shots", [3, 9])  # in the dual and in the primal
def test_rows_that_do_not_count_leave_the_ridge_of_those_that_do(shots: int) -> None:
    x, y, query, _ = clusters(shots=shots)
    model, kept = r2d2(), torch.rand(y.shape) < 0.6
    kept[:, ::shots] = True  # an image of each class at least
    found = model.predict(model.adapt(x, y.masked_fill(~kept, -1), ways=4), query)
    for t in range(len(x)):
        alone = model.predict(model.adapt(x[t, kept[t]][None], y[t, kept[t]][None], ways=4), query[t : t + 1])
        torch.testing.assert_close(found[t : t + 1], alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("learn_penalty", [False, True])
def test_what_is_learned(learn_penalty: bool) -> None:
    x, y, query, query_y = clusters()
    model = r2d2(learn_penalty=learn_penalty)
    model(Episode(x, y, query, query_y, torch.arange(4).repeat(3, 1))).loss.backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs() > 0}
    assert learned == {"scale"} | ({"log_penalty"} if learn_penalty else set())


def test_a_penalty_that_fits_anything() -> None:
    with pytest.raises(InputError, match=r"algorithm\.penalty=0\.0 is not above 0"):
        r2d2(penalty=0.0)


def test_the_protocol_is_on_record() -> None:
    assert r2d2().protocol() == {"head": "ridge", "norm_statistics": "running"}
