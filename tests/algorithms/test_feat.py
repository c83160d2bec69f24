"""FEAT: attention over prototypes, and its contrastive term, one class after the other in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from toy_data import Identity, clusters

from fewshot.algorithms.feat import FEAT
from fewshot.episode import Episode, Episodes
from fewshot.errors import InputError

WAYS, WIDTH = 4, 6


def feat(**options: Any) -> FEAT:
    defaults: dict[str, Any] = {"temperature": 2.0, "aux_temperature": 3.0, "balance": 0.1, "attention_dropout": 0.0,
                                "dropout": 0.0}  # fmt: skip
    stream = Episodes(tasks=2, ways=WAYS, shots=2, queries=2)
    model = FEAT(Identity(WIDTH), stream=stream, **(defaults | options)).double()
    torch.nn.init.normal_(model.transform.norm.weight)
    torch.nn.init.normal_(model.transform.norm.bias)
    return model


def transformed(model: FEAT, s: np.ndarray) -> np.ndarray:
    """(1) for one set, [n, D] -> [n, D]."""
    t = model.transform
    q, k, v, o = (layer.weight.detach().numpy() for layer in (t.queries, t.keys, t.values, t.output))
    result = []
    for element in s:
        scores = np.exp([(q @ element) @ (k @ other) / np.sqrt(WIDTH) for other in s])
        mixed = sum(a * (v @ other) for a, other in zip(scores / scores.sum(), s, strict=True))
        raw = element + o @ mixed + t.output.bias.detach().numpy()
        normal = (raw - raw.mean()) / np.sqrt(raw.var() + 1e-5)
        result.append(normal * t.norm.weight.detach().numpy() + t.norm.bias.detach().numpy())
    return np.array(result)


def minus_distances(z: np.ndarray, centres: np.ndarray, temperature: float) -> np.ndarray:
    return -((z[:, None] - centres[None]) ** 2).sum(-1) / temperature


def cross_entropy(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(y)), y]


@pytest.mark.parametrize("shots", [1, 3])
def test_logits_and_loss_are_the_papers(shots: int) -> None:
    x, y, query, query_y = clusters(shots=shots)
    model = feat()
    out = model(Episode(x, y, query, query_y, torch.arange(WAYS).repeat(3, 1)))
    losses = []
    for t in range(len(x)):
        z, labels, q, truth = x[t].numpy(), y[t].numpy(), query[t].numpy(), query_y[t].numpy()
        prototypes = np.array([z[labels == k].mean(0) for k in range(WAYS)])
        logits = minus_distances(q, transformed(model, prototypes), 2.0)
        np.testing.assert_allclose(out.logits[t].detach(), logits, rtol=1e-9, atol=1e-9)
        both, both_y = np.concatenate([z, q]), np.concatenate([labels, truth])
        centres = np.array([transformed(model, both[both_y == k]).mean(0) for k in range(WAYS)])
        contrast = cross_entropy(minus_distances(both, centres, 3.0), both_y)
        losses.append(cross_entropy(logits, truth).mean() + 0.1 * contrast.mean())
    assert out.loss.item() == pytest.approx(np.mean(losses), rel=1e-9)


def test_prediction_is_that_of_training_without_dropout() -> None:
    x, y, query, query_y = clusters()
    model = feat(attention_dropout=0.5, dropout=0.5).eval()
    out = model(Episode(x, y, query, query_y, torch.arange(WAYS).repeat(3, 1)))
    torch.testing.assert_close(model.predict(model.adapt(x, y, ways=WAYS), query), out.logits)
    assert not torch.allclose(model.train()(Episode(x, y, query, query_y, torch.arange(WAYS).repeat(3, 1)))[1], out[1])


def test_classes_may_have_unequal_numbers_of_shots() -> None:
    x, y = torch.rand(1, 6, WIDTH, dtype=torch.float64), torch.tensor([[0, 2, 2, 1, 2, 0]])
    model = feat()
    prototypes = np.array([x[0].numpy()[y[0].numpy() == k].mean(0) for k in range(3)])
    np.testing.assert_allclose(model.adapt(x, y, ways=3)[0].detach(), transformed(model, prototypes), rtol=1e-9)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"aux_temperature": -1.0}, {"balance": -0.1}])
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"temperature=.* is not above 0|algorithm\.balance=-0\.1 is below 0"):
        feat(**options)


def test_the_protocol_is_on_record() -> None:
    assert feat().protocol() == {"distance": "squared_euclidean", "norm_statistics": "running"}
