"""Adam for the weights of many tasks in one batch. Layer 0."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import grad

Weights = dict[str, Tensor]


class Adam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1) as a function of weights and gradients.

    Each number is updated by itself, so tasks along a first axis are T optimisers in one; nothing is changed in
    place and nothing is read back from the device. Weights without a gradient do not move in that step.
    square, steps: where an optimiser with beta1 = 0 goes on that has done so many steps (a float64 scalar, or an int).
    """

    def __init__(
        self, lr: float, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        square: Mapping[str, Tensor] | None = None, steps: Tensor | int = 0,
    ) -> None:  # fmt: skip
        self.lr, self.betas, self.eps = lr, betas, eps
        self.steps = steps
        self.mean: dict[str, Tensor] = {}  # of the gradients
        self.square: dict[str, Tensor] = {**(square or {})}  # of their squares

    def step(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Weights:
        """The weights after one step; both mappings hold tensors of the same shapes by name."""
        return {**weights, **{name: weights[name] - self.lr * d for name, d in self.direction(gradients).items()}}

    def direction(self, gradients: Mapping[str, Tensor]) -> Weights:
        """What the rate multiplies in the next step. Its derivative is finite, also where a gradient is 0."""
        (b1, b2), self.steps = self.betas, self.steps + 1
        found = {}
        for name, g in gradients.items():
            zero = torch.zeros_like(g)
            self.mean[name] = b1 * self.mean.get(name, zero) + (1 - b1) * g
            self.square[name] = b2 * self.square.get(name, zero) + (1 - b2) * g * g
            square = self.square[name] / (1 - b2**self.steps)
            root = torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)
            found[name] = (self.mean[name] / (1 - b1**self.steps)) / (root + self.eps)
        return found


def minimise(loss: Callable[[Weights], Tensor], weights: Weights, *, steps: int, lr: float) -> Weights:
    """`steps` steps of Adam on a scalar loss summed over tasks; works without grad mode, too."""
    adam = Adam(lr)
    for _ in range(steps):
        weights = adam.step(weights, grad(loss)(weights))
    return weights
