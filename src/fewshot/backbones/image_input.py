"""What a pre-trained network was trained to see: size, interpolation, mean and deviation. Layer 1."""

import importlib
from collections.abc import Sequence
from types import ModuleType

from torch import Tensor, nn, tensor

from fewshot.errors import InputError, check_least


class ImageInput(nn.Module):
    """[B, 1 or 3, H, W] float32 in [0, 1] -> [B, 3, size, size], resized where need be, then normalised.

    size: side of the square image. resize: a picture's shorter side before its central size x size square is
    cut out (who reads pictures from files asks for it). interpolation: bilinear | bicubic. mean, std: one per
    channel, of images in [0, 1]; they are constants, not weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, *, size: int, resize: int, interpolation: str, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        check_least("backbone", 1, size=size)
        self.size, self.resize = size, resize
        self.interpolation = interpolation if interpolation == "bicubic" else "bilinear"
        self.register_buffer("mean", tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.size, self.size):
            x = nn.functional.interpolate(x, (self.size, self.size), mode=self.interpolation, antialias=True)
            x = x.clamp(0, 1)  # bicubic overshoots at edges
        return (x.expand(-1, 3, -1, -1) - self.mean) / self.std


def package(name: str, extra: str, backbone: str) -> ModuleType:
    """The imported package of an optional backbone; InputError with the pip command where it is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.split(".")[0]:
            raise
        raise InputError(f"backbone={backbone} needs the package {name}: pip install 'fewshot[{extra}]'") from error
