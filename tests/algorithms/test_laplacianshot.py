"""LaplacianShot against a loop over tasks, images and classes written from the paper's equations."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toy_data import Identity, clusters

from fewshot.algorithms.laplacianshot import LaplacianShot
from fewshot.episode import Minibatch, Minibatches
from fewshot.errors import InputError

WAYS, SCALE, LAPLACIAN, NEIGHBOURS = 4, 7.0, 0.6, 3


def laplacianshot(**options: Any) -> LaplacianShot:
    defaults: dict[str, Any] = {
        "train_classes": 5, "stream": Minibatches(batch_size=8), "centre": True, "scale": SCALE,
        "laplacian": LAPLACIAN, "neighbours": NEIGHBOURS, "steps": 10,
    }  # fmt: skip
    return LaplacianShot(Identity(6), **(defaults | options)).double().eval()


def rectified(support: Tensor, y: Tensor, query: Tensor) -> list[Tensor]:
    """(1) of one task, embeddings normalised."""
    query = query + support.mean(0) - query.mean(0)
    c = torch.stack([support[y == k].mean(0) for k in range(WAYS)])
    share = [(SCALE * F.cosine_similarity(z[None], c)).softmax(0) for z in [*support, *query]]
    label = [*y.tolist(), *[int(s.argmax()) for s in share[len(y) :]]]
    z = [*support, *query]
    return [torch.stack([share[i][k] * z[i] for i in range(len(z)) if label[i] == k]).mean(0) for k in range(WAYS)]


def assignments(a: Tensor, query: Tensor, steps: int) -> list[Tensor]:
    """y_q after each of `steps` rounds of (5), for one task."""
    distance = torch.cdist(query, query)
    nearest = [[int(j) for j in row.argsort() if j != i][:NEIGHBOURS] for i, row in enumerate(distance)]
    y = (-a).softmax(-1)
    seen = [y]
    for _ in range(steps):
        pull = torch.stack([sum((y[j] for j in near), torch.zeros(WAYS, dtype=y.dtype)) for near in nearest])
        y = (-a + LAPLACIAN * pull).softmax(-1)
        seen.append(y)
    return seen


def test_assignments_are_the_papers() -> None:
    support, y, query, _ = clusters(shots=3, queries=6)
    model = laplacianshot()
    model.mean.copy_(torch.rand(6))
    ours = model.predict(model.adapt(support, y, ways=WAYS), query).softmax(-1)
    support, query = (F.normalize(z - model.mean, dim=-1) for z in (support, query))
    for t in range(len(support)):
        m = torch.stack(rectified(support[t], y[t], query[t]))
        a = torch.cdist(query[t], m) ** 2
        torch.testing.assert_close(ours[t], assignments(a, query[t], 10)[-1], rtol=0, atol=1e-10)


def test_without_neighbours_weight_it_is_the_nearest_rectified_prototype() -> None:
    support, y, query, _ = clusters()
    model = laplacianshot(laplacian=0.0, centre=False)
    ours = model.predict(model.adapt(support, y, ways=WAYS), query)
    support, query = F.normalize(support, dim=-1), F.normalize(query, dim=-1)
    m = model.rectified(support, F.one_hot(y, WAYS).double(), query)
    torch.testing.assert_close(ours, -(torch.cdist(query, m) ** 2), rtol=0, atol=1e-10)


def test_each_query_has_its_nearest_others_and_not_itself() -> None:
    query = torch.tensor([[[0.0], [1.0], [3.0], [3.5]]])
    expected = torch.tensor([[[0, 1, 1, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 1, 1, 0]]]).float()
    assert torch.equal(laplacianshot(neighbours=2).affinity(query), expected)
    assert torch.equal(laplacianshot(neighbours=9).affinity(query), 1 - torch.eye(4)[None])


def test_the_protocol_says_whether_there_was_a_mean_to_subtract() -> None:
    model = laplacianshot().train()
    with pytest.raises(InputError, match=r"LaplacianShot subtracts the mean embedding .* come without one"):
        model.check_measured()
    model(Minibatch(torch.rand(5, 6, dtype=torch.float64), torch.arange(5)))
    assert model.protocol()["mean_over_batches"] == 1
    assert "mean_over_batches" not in laplacianshot(centre=False).protocol()


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(InputError, match=r"neighbours=0 is below 1"):
        laplacianshot(neighbours=0)
