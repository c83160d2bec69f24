"""TIM and alpha-TIM against loops over tasks, images and classes written from the papers' equations."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toy_data import Identity, clusters

from fewshot.algorithms.tim import TIM
from fewshot.episode import Minibatches
from fewshot.errors import InputError

A, B, C, TEMPERATURE = 0.3, 0.9, 0.2, 12.0  # none at its default
WAYS = 4


def tim(**options: Any) -> TIM:
    defaults: dict[str, Any] = {
        "train_classes": 5, "stream": Minibatches(batch_size=8), "solver": "gradient", "steps": 25, "lr": 0.02,
        "temperature": TEMPERATURE, "cross_entropy": A, "marginal": B, "conditional": C, "alpha": 1.0,
    }  # fmt: skip
    return TIM(Identity(6), **(defaults | options)).double().eval()


def posteriors(z: Tensor, w: Tensor) -> Tensor:
    """(1) for one task: [M, D], [N, D] -> [M, N]."""
    rows = [[-TEMPERATURE / 2 * (zi - wk).square().sum() for wk in w] for zi in z]
    return torch.stack([torch.stack(row) for row in rows]).softmax(-1)


def alpha_entropy(p: Tensor, alpha: float) -> Tensor:
    if alpha == 1:
        return sum((-q * q.log() for q in p), torch.zeros((), dtype=p.dtype))
    return (1 - sum(q**alpha for q in p)) / (alpha - 1)  # type: ignore[no-any-return]


def fitted(support: Tensor, y: Tensor, query: Tensor, alpha: float) -> Tensor:
    """Equation (2) of one task by torch.optim.Adam -> posteriors of its queries."""
    w = torch.stack([support[y == k].mean(0) for k in range(WAYS)]).requires_grad_()
    optimiser = torch.optim.Adam([w], lr=0.02)
    for _ in range(25):
        p_support, p = posteriors(support, w), posteriors(query, w)
        cross_entropy = -sum(p_support[i, y[i]].log() for i in range(len(y))) / len(y)
        conditional = sum(alpha_entropy(row, alpha) for row in p) / len(p)
        optimiser.zero_grad()
        (A * cross_entropy - B * alpha_entropy(p.mean(0), alpha) + C * conditional).backward()
        optimiser.step()
    return posteriors(query, w.detach())


@pytest.mark.parametrize("alpha", [1.0, 2.0, 5.0])
def test_gradient_descent_is_adam_on_the_objective(alpha: float) -> None:
    support, y, query, _ = clusters(tasks=2)
    model = tim(alpha=alpha)
    ours = model.predict(model.adapt(support, y, ways=WAYS), query).softmax(-1)
    support, query = F.normalize(support, dim=-1), F.normalize(query, dim=-1)
    for t in range(2):
        torch.testing.assert_close(ours[t], fitted(support[t], y[t], query[t], alpha), rtol=0, atol=1e-9)


def alternated(support: Tensor, y: Tensor, query: Tensor, steps: int) -> Tensor:
    """Equations (4) and (5) of one task, number by number -> posteriors of its queries."""
    w = torch.stack([support[y == k].mean(0) for k in range(WAYS)])
    images, queries = range(len(support)), range(len(query))
    for _ in range(steps):
        p_support, p = posteriors(support, w), posteriors(query, w)
        total = [sum(float(p[i, k]) ** (1 + C) for i in queries) for k in range(WAYS)]
        q = torch.tensor(
            [[float(p[i, k]) ** (1 + C) / total[k] ** (B / (1 + B)) for k in range(WAYS)] for i in queries]
        )
        q = (q / q.sum(1, keepdim=True)).double()
        new = []
        for k in range(WAYS):
            of_support = A / (1 + C)
            of_query = len(support) / len(query)
            above = sum(
                of_support * (float(y[i] == k) * support[i] + p_support[i, k] * (w[k] - support[i])) for i in images
            )
            above += sum(of_query * (q[i, k] * query[i] + p[i, k] * (w[k] - query[i])) for i in queries)
            below = sum(of_support * float(y[i] == k) for i in images) + sum(of_query * float(q[i, k]) for i in queries)
            new.append(above / below)
        w = torch.stack(new)
    return posteriors(query, w)


def test_alternating_updates_are_the_papers() -> None:
    support, y, query, _ = clusters(tasks=2, queries=3)
    model = tim(solver="alternating", steps=4)
    ours = model.predict(model.adapt(support, y, ways=WAYS), query).softmax(-1)
    support, query = F.normalize(support, dim=-1), F.normalize(query, dim=-1)
    for t in range(2):
        torch.testing.assert_close(ours[t], alternated(support[t], y[t], query[t], 4), rtol=0, atol=1e-6)


def test_both_solvers_raise_the_mutual_information() -> None:
    support, y, query, _ = clusters()
    for solver in ("gradient", "alternating"):
        found = []
        for steps in (0, 5, 50):
            model = tim(solver=solver, steps=steps, lr=0.005)
            p = model.predict(model.adapt(support, y, ways=WAYS), query).softmax(-1)
            found.append((B * model.entropy(p.mean(1)) - C * model.entropy(p).mean(1)).mean().item())
        assert found[0] < found[1] < found[2], solver


def test_alpha_near_one_is_shannon() -> None:
    p = torch.rand(5, WAYS, dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(tim(alpha=1 + 1e-7).entropy(p), tim().entropy(p), rtol=0, atol=1e-6)


def test_the_entropy_of_the_even_and_of_the_certain() -> None:
    even, certain = torch.full((WAYS,), 1 / WAYS).double(), torch.eye(WAYS).double()[0]
    assert tim().entropy(even).item() == pytest.approx(math.log(WAYS))
    assert tim(alpha=2.0).entropy(even).item() == pytest.approx(1 - 1 / WAYS)
    assert tim().entropy(certain) == 0 == tim(alpha=2.0).entropy(certain)


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(InputError, match=r"alpha=2.0 has no alternating updates; set algorithm.solver=gradient"):
        tim(alpha=2.0, solver="alternating")
    with pytest.raises(InputError, match=r"solver=newton is unknown"):
        tim(solver="newton")
    with pytest.raises(InputError, match=r"alpha=0.0 is not above 0"):
        tim(alpha=0.0)
