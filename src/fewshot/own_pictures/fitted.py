"""What was learned from support pictures, as one module that a file can hold. Layer 4."""

from typing import Any

import torch
from torch import Tensor, nn

from fewshot.algorithms.base import Algorithm
from fewshot.own_pictures.heads import Head
from fewshot.own_pictures.views import views


class HeadOnNetwork(nn.Module):
    """[B, 3, S, S] float32 in [0, 1] -> scores [B, N]: a head on a network's features, by the mean over views.

    network: has an `input` (backbones.image_input.ImageInput).
    """

    weight: Tensor
    bias: Tensor
    centre: Tensor

    def __init__(self, network: nn.Module, head: Head) -> None:
        super().__init__()
        shown: Any = network.input
        self.network, self.rooted, self.size = network, head.rooted, int(shown.size)
        for name in ("weight", "bias", "centre"):
            self.register_buffer(name, torch.from_numpy(getattr(head, name)).float())

    @property
    def head(self) -> Head:
        """As it is now, in float64."""
        weight, bias, centre = (t.double().cpu().numpy() for t in (self.weight, self.bias, self.centre))
        return Head(weight, bias, centre, self.rooted)

    def forward(self, x: Tensor) -> Tensor:
        return self.of_views(views(x, self.size))

    def of_views(self, shown: Tensor) -> Tensor:
        """[B, V, 3, size, size] -> scores [B, N]."""
        z = self.network(shown.flatten(0, 1)).unflatten(0, (-1, shown.shape[1])) - self.centre  # [B, V, D]
        if self.rooted:
            z = z.sign() * z.abs().clamp(min=1e-12).sqrt()  # whose gradient is finite at 0
        return nn.functional.normalize(z, dim=-1).mean(1) @ self.weight + self.bias


class OfAlgorithm(nn.Module):
    """[B, C, H, W] float32 in [0, 1] -> scores [B, N], by an algorithm and what it learned of one task."""

    def __init__(self, algorithm: Algorithm, state: Any) -> None:
        super().__init__()
        self.algorithm, self.state = algorithm, state

    def forward(self, x: Tensor) -> Tensor:
        return self.algorithm.predict(self.state, x[None])[0]
