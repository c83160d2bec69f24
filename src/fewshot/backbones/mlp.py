"""The fully connected network of the MAML paper (arXiv:1703.03400, section 5.1). Layer 1."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from fewshot.errors import InputError, check_choice
from fewshot.ops.norm import NORMS


class MLP(nn.Module):
    """[B, C, H, W] float32 -> [B, widths[-1]]; linear layers, each followed by batch norm and ReLU."""

    def __init__(self, image_shape: Sequence[int], *, widths: Sequence[int], norm: str) -> None:
        super().__init__()
        check_choice("backbone.norm", norm, ("batch", "none"))
        if not widths or min(widths) < 1:
            raise InputError(f"backbone.widths={list(widths)}; give the width of each layer, 1 at least")
        layers: list[nn.Module] = [nn.Flatten()]
        features = math.prod(image_shape)
        for width in widths:
            layers += [nn.Linear(features, width), NORMS[norm](width), nn.ReLU()]
            features = width
        self.layers = nn.Sequential(*layers)
        self.out_features = features

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
