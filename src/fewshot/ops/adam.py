"""Adam for the weights of many tasks in one batch. Layer 0."""

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.func import grad

Weights = dict[str, Tensor]


class Adam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1) as a function of weights and gradients.

    Each number is updated by itself, so tasks along a first axis are T optimisers in one; nothing is changed in
    place and nothing is read back from the device. Weights without a gradient do not move in that step.
    """

    def __init__(self, lr: float, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.lr, self.betas, self.eps = lr, betas, eps
        self.steps = 0
        self.mean: dict[str, Tensor | float] = {}  # of the gradients
        self.square: dict[str, Tensor | float] = {}  # of their squares

    def step(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Weights:
        """The weights after one step; both mappings hold tensors of the same shapes by name."""
        (b1, b2), self.steps = self.betas, self.steps + 1
        moved = {}
        for name, g in gradients.items():
            self.mean[name] = b1 * self.mean.get(name, 0.0) + (1 - b1) * g
            self.square[name] = b2 * self.square.get(name, 0.0) + (1 - b2) * g * g
            scale = (self.square[name] / (1 - b2**self.steps)) ** 0.5 + self.eps
            moved[name] = weights[name] - self.lr * (self.mean[name] / (1 - b1**self.steps)) / scale
        return {**weights, **moved}


def minimise(loss: Callable[[Weights], Tensor], weights: Weights, *, steps: int, lr: float) -> Weights:
    """`steps` steps of Adam on a scalar loss summed over tasks; works without grad mode, too."""
    adam = Adam(lr)
    for _ in range(steps):
        weights = adam.step(weights, grad(loss)(weights))
    return weights
