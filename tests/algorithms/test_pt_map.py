"""PT-MAP against numpy: the transport by long iteration, the whole method by a loop over tasks."""

from typing import Any

import numpy as np
import pytest
import torch
from toy_data import Identity, clusters

from fewshot.algorithms.pt_map import PTMAP
from fewshot.episode import Minibatches
from fewshot.errors import InputError

WAYS = 4
Array = np.ndarray[Any, Any]


def pt_map(**options: Any) -> PTMAP:
    defaults: dict[str, Any] = {
        "train_classes": 5, "stream": Minibatches(batch_size=8), "power": 0.5, "sinkhorn": 10.0, "scalings": 1000,
        "rate": 0.3, "steps": 6,
    }  # fmt: skip
    return PTMAP(Identity(6), **(defaults | options)).double().eval()


def transport(query: Array, centres: Array, sinkhorn: float) -> Array:
    """(3) of one task: rows and columns of exp(-sinkhorn L) in turn until nothing moves."""
    m = np.exp(-sinkhorn * ((query[:, None] - centres[None]) ** 2).sum(-1))
    for _ in range(20000):
        before = m
        m = m / m.sum(1, keepdims=True)
        m = m * (len(query) / len(centres)) / m.sum(0)
        if np.abs(m - before).max() < 1e-14:
            break
    return m


def classified(support: Array, y: Array, query: Array) -> Array:
    """(1) to (4) of one task -> M of the last centres."""

    def transformed(z: Array) -> Array:
        z = np.sqrt(z + 1e-6)
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
        z = z - z.mean(0)
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    support, query = transformed(support), transformed(query)
    centres = np.stack([support[y == k].mean(0) for k in range(WAYS)])
    for _ in range(6):
        m = transport(query, centres, 10.0)
        pulled = [sum(m[i, j] * query[i] for i in range(len(query))) + support[y == j].sum(0) for j in range(WAYS)]
        mean = np.stack([pulled[j] / (m[:, j].sum() + (y == j).sum()) for j in range(WAYS)])
        centres = centres + 0.3 * (mean - centres)
    return transport(query, centres, 10.0)


def test_the_plan_is_the_papers() -> None:
    support, y, query, _ = clusters()
    model = pt_map()
    ours = model.predict(model.adapt(support, y, ways=WAYS), query).exp()
    for t in range(len(support)):
        theirs = torch.from_numpy(classified(support[t].numpy(), y[t].numpy(), query[t].numpy()))
        torch.testing.assert_close(ours[t], theirs, rtol=0, atol=1e-8)


def test_rows_are_one_and_columns_the_same_share() -> None:
    _, _, query, _ = clusters()
    m = pt_map(scalings=2000).transport(query, query[:, :WAYS]).exp()
    torch.testing.assert_close(m.sum(-1), torch.ones_like(m[..., 0]))
    torch.testing.assert_close(m.sum(1), torch.full_like(m[:, 0], query.shape[1] / WAYS))


def test_the_plan_solves_the_regularised_transport() -> None:
    """At the optimum log M + sinkhorn L is a sum of a row's and a column's number: all 2x2 interactions are 0."""
    _, _, query, _ = clusters()
    centres = query[:, :WAYS]
    rest = pt_map().transport(query, centres) + 10.0 * torch.cdist(query, centres) ** 2
    rest = rest - rest.mean(1, keepdim=True)
    torch.testing.assert_close(rest - rest.mean(2, keepdim=True), torch.zeros_like(rest), rtol=0, atol=1e-9)


def test_far_centres_do_not_underflow() -> None:
    query = torch.tensor([[[0.0], [100.0]]])
    m = pt_map().transport(query, torch.tensor([[[0.0], [100.0]]])).exp()
    torch.testing.assert_close(m, torch.eye(2)[None])


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(InputError, match=r"scalings=0 is below 1"):
        pt_map(scalings=0)
