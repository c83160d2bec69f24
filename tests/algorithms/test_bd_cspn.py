"""BD-CSPN against a loop over tasks, classes and images written from the paper's equations."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toy_data import Identity, clusters

from fewshot.algorithms.bd_cspn import BDCSPN
from fewshot.episode import Minibatches
from fewshot.errors import InputError

WAYS, SCALE = 4, 7.0


def bd_cspn(**options: Any) -> BDCSPN:
    defaults: dict[str, Any] = {"train_classes": 5, "stream": Minibatches(batch_size=8), "scale": SCALE,
                                "pseudo_labels": None}  # fmt: skip
    return BDCSPN(Identity(6), **(defaults | options)).double().eval()


def rectified(support: Tensor, y: Tensor, query: Tensor, most: int) -> Tensor:
    """The probabilities of one task's queries, image by image."""

    def cos(a: Tensor, b: Tensor) -> float:
        return float(a @ b / (a.norm() * b.norm()))

    support = torch.stack([z / z.norm() for z in support])
    query = torch.stack([z / z.norm() for z in query])
    query = query + (support.mean(0) - query.mean(0))
    p = [support[y == k].mean(0) for k in range(WAYS)]
    nearest = [max(range(WAYS), key=lambda k: cos(z, p[k])) for z in query]
    rows = []
    for k in range(WAYS):
        mine = sorted((z for z, n in zip(query, nearest, strict=True) if n == k), key=lambda z: -cos(z, p[k]))[:most]
        members = [*support[y == k], *mine]
        weights = torch.tensor([SCALE * cos(z, p[k]) for z in members], dtype=torch.float64).softmax(0)
        rows.append(sum(w * z for w, z in zip(weights, members, strict=True)))
    return torch.tensor([[SCALE * cos(z, c) for c in rows] for z in query], dtype=torch.float64)


@pytest.mark.parametrize("most", [None, 2])
def test_logits_are_the_papers(most: int | None) -> None:
    support, y, query, _ = clusters(shots=2, queries=6)
    model = bd_cspn(pseudo_labels=most)
    ours = model.predict(model.adapt(support, y, ways=WAYS), query)
    for t in range(len(support)):
        torch.testing.assert_close(ours[t], rectified(support[t], y[t], query[t], most or 99), rtol=0, atol=1e-10)


def test_without_pseudo_labels_only_the_shift_is_left() -> None:
    support, y, query, _ = clusters(shots=1)
    model = bd_cspn(pseudo_labels=0)
    ours = model.predict(model.adapt(support, y, ways=WAYS), query)
    support, query = F.normalize(support, dim=-1), F.normalize(query, dim=-1)
    moved = F.normalize(query + support.mean(1, keepdim=True) - query.mean(1, keepdim=True), dim=-1)
    torch.testing.assert_close(ours, SCALE * moved @ support.mT)


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(InputError, match=r"pseudo_labels=-1 is below 0"):
        bd_cspn(pseudo_labels=-1)
