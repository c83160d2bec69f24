"""Adam on the weights of many tasks: PyTorch's numbers, task by task."""

import torch

from fewshot.ops.adam import Adam, minimise


def test_three_tasks_in_one_batch_are_three_optimisers_of_pytorch() -> None:
    start, target = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    together = minimise(lambda w: ((w["w"] - target) ** 4).sum(), {"w": start}, steps=30, lr=0.1)["w"]
    for task in range(3):
        w = start[task].clone().requires_grad_()
        optimiser = torch.optim.Adam([w], lr=0.1)
        for _ in range(30):
            optimiser.zero_grad()
            ((w - target[task]) ** 4).sum().backward()
            optimiser.step()
        torch.testing.assert_close(together[task], w.detach(), rtol=1e-9, atol=1e-10)


def test_without_a_gradient_a_weight_stays() -> None:
    weights = {"moves": torch.ones(2), "stays": torch.ones(2)}
    moved = Adam(0.1).step(weights, {"moves": torch.ones(2)})
    assert torch.equal(moved["stays"], weights["stays"]) and not torch.equal(moved["moves"], weights["moves"])
    assert torch.equal(weights["moves"], torch.ones(2)), "what went in is as it was"


def test_no_grad_mode_changes_nothing() -> None:
    def moved() -> torch.Tensor:
        return minimise(lambda w: (w["w"] ** 2).sum(), {"w": torch.ones(2)}, steps=3, lr=0.1)["w"]

    with torch.no_grad():
        inside = moved()
    assert torch.equal(inside, moved())
