"""The Omniglot tutorial's network: four convolution blocks, then a linear layer before the head. Layer 1."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu

from fewshot.backbones.conv4 import Conv4
from fewshot.errors import InputError


class OmniglotNet(nn.Module):
    """[B, 1, 28, 28] float32 -> [B, 64]: four 64-filter blocks (28x28 becomes 1x1), linear 64 -> 64, ReLU.

    Its second linear layer is the head, which belongs to the algorithm.
    """

    out_features = 64

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.features = Conv4(
            image_shape, filters=64, blocks=4, downsampling="pool", readout="flatten",
            norm="batch", norm_scale=True, norm_eps=1e-5, activation=nn.ReLU(),
        )  # fmt: skip
        if self.features.out_features != 64:
            raise InputError(
                f"omniglot_net wants images of 16 to 31 pixels (four poolings to 1x1), these are "
                f"{image_shape[1]}x{image_shape[2]}; set dataset.size=28 or use backbone=conv4"
            )
        self.linear = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.linear(self.features(x)))
