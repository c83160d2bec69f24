"""Matching networks: attention over the support set, and the LSTMs of full-context embeddings, written out in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy_data import Identity, clusters

from fewshot.algorithms.matching import MatchingNet
from fewshot.episode import Episode, Episodes
from fewshot.errors import InputError
from fewshot.testing import check_algorithm

WAYS, WIDTH = 4, 6
STREAM = Episodes(tasks=2, ways=WAYS, shots=2, queries=2)


def matching(backbone: nn.Module | None = None, **options: Any) -> MatchingNet:
    defaults: dict[str, Any] = {"scale": 3.0, "full_context": False, "attention_steps": 3}
    return MatchingNet(backbone or Identity(WIDTH), stream=STREAM, **(defaults | options)).double()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def lstm_step(cell: nn.Module, x: np.ndarray, h: np.ndarray, c: np.ndarray, end: str = "") -> tuple[np.ndarray, ...]:
    """One step of an LSTM with the weights of a torch layer."""
    weights = {name: getattr(cell, name + end).detach().numpy() for name in ("weight_ih", "weight_hh")}
    bias = (getattr(cell, "bias_ih" + end) + getattr(cell, "bias_hh" + end)).detach().numpy()
    i, f, g, o = np.split(weights["weight_ih"] @ x + weights["weight_hh"] @ h + bias, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def probabilities(model: MatchingNet, z: np.ndarray, y: np.ndarray, query: np.ndarray, ways: int) -> np.ndarray:
    """(1) to (4) for one query of one task, one support image after the other."""
    g, h = z.copy(), query.copy()
    if model.full_context:
        for end, order in (("_l0", range(len(z))), ("_l0_reverse", reversed(range(len(z))))):
            state = np.zeros(WIDTH), np.zeros(WIDTH)
            for i in order:
                state = lstm_step(model.context, z[i], *state, end=end)
                g[i] += state[0]
        c = np.zeros(WIDTH)
        for _ in range(model.attention_steps):
            r = softmax(g @ h) @ g
            h, c = lstm_step(model.attention, np.concatenate([query, r]), h, c)
            h = h + query
    cosine = [h @ row / np.linalg.norm(h) / np.linalg.norm(row) for row in g]
    attention = softmax(model.scale * np.array(cosine))
    return np.array([attention[y == k].sum() for k in range(ways)])


@pytest.mark.parametrize("full_context", [False, True])
@pytest.mark.parametrize("shots", [1, 3])
def test_logits_are_logarithms_of_the_papers_probabilities(full_context: bool, shots: int) -> None:
    x, y, query, _ = clusters(shots=shots)
    model = matching(full_context=full_context).eval()
    found = model.predict(model.adapt(x, y, ways=WAYS), query).detach().exp().numpy()
    for t in range(len(x)):
        for j in range(query.shape[1]):
            value = probabilities(model, x[t].numpy(), y[t].numpy(), query[t, j].numpy(), WAYS)
            np.testing.assert_allclose(found[t, j], value, rtol=1e-9)


def test_classes_may_have_unequal_numbers_of_shots() -> None:
    x, y = torch.rand(1, 6, WIDTH, dtype=torch.float64), torch.tensor([[0, 2, 2, 1, 2, 0]])
    model = matching()
    found = model.predict(model.adapt(x, y, ways=3), x)[0].exp()
    expected = [probabilities(model, x[0].numpy(), y[0].numpy(), z.numpy(), 3) for z in x[0]]
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-9)


def test_a_sharp_attention_stays_finite() -> None:
    x, y, query, query_y = clusters()
    x.requires_grad_()
    out = matching(scale=1e5)(Episode(x, y, query, query_y, torch.arange(WAYS).repeat(3, 1)))
    out.loss.backward()
    assert out.logits.isfinite().all() and x.grad.isfinite().all()


@pytest.mark.parametrize("full_context", [False, True])
def test_gradients_reach_every_parameter(full_context: bool) -> None:
    x, y, query, query_y = clusters()
    model = matching(full_context=full_context)
    x.requires_grad_()
    model(Episode(x, y, query, query_y, torch.arange(WAYS).repeat(3, 1))).loss.backward()
    assert all(p.grad.abs().max() > 0 for p in [*model.parameters(), x])


def test_full_context_keeps_an_algorithms_contract() -> None:
    findings = {f.property: f for f in check_algorithm(matching(full_context=True), image_shape=(WIDTH,))}
    assert [str(f) for f in findings.values() if not f.ok] == []
    assert findings["label order"].note.startswith("not asked")  # the LSTM reads class after class


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"attention_steps": 0}])
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"algorithm\.(scale=0\.0 is not above 0|attention_steps=0 is below 1)"):
        matching(**options)


def test_the_protocol_is_on_record() -> None:
    assert matching().protocol() == {"full_context": False, "norm_statistics": "running"}
