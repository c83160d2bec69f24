"""What an inner step makes of its gradient before the rate: nothing, a clipped one, or Adam's direction. Layer 0."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fewshot.ops.adam import Adam

Gradients = dict[str, Tensor]  # by name, [T, *S] of T tasks
Direction = Callable[[Gradients], Gradients]


def direction(kind: str, clip: float | None) -> Direction:
    """A new inner optimiser, sgd or adam, which keeps its moments over the steps of one inner loop.

    clip: largest norm of a task's gradient, over all parameters together; None for none.
    """
    adam = Adam(1.0) if kind == "adam" else None

    def directed(gradients: Gradients) -> Gradients:
        gradients = gradients if clip is None else clipped(gradients, clip)
        return gradients if adam is None else adam.direction(gradients)

    return directed


def clipped(gradients: Mapping[str, Tensor], limit: float) -> Gradients:
    """Each task's gradient scaled down to the norm `limit` where it is longer; differentiable."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0)  # [T]
    scale = limit * squares.clamp(min=limit**2).rsqrt()  # 1 where the norm is below the limit
    return {name: g * scale.view(-1, *[1] * (g.ndim - 1)) for name, g in gradients.items()}
