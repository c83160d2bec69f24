"""From a picture to what a pre-trained network is shown of it. Layer 4.

A picture is squeezed into a square, a little larger than the network's images. Of that it is shown ten views: the
whole, the four corners, and all of them mirrored. Scores are averaged over the views, and as support pictures they
count as copies: docs/pictures.md has what that is worth.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor


def side_for(size: int) -> int:
    """Side of the square for views of `size` pixels: corners overlap and have 7/9 of it, 224 of 288."""
    return round(size * 9 / 7)


def pixels_hash(picture: Image.Image) -> str:
    """Equal exactly for pictures with the same pixels, whatever their file."""
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()


def squeezed(picture: Image.Image, side: int, interpolation: str) -> np.ndarray:
    """RGB -> [3, side, side] uint8, the whole picture."""
    method = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    return np.asarray(picture.resize((side, side), method)).transpose(2, 0, 1)


def views(x: "Tensor", size: int) -> "Tensor":
    """[B, 3, side, side] float -> [B, 10, 3, size, size]: whole, four corners, and these mirrored."""
    import torch

    # without antialiasing, which ONNX has in another way: 288 to 224 pixels is no large step
    whole = torch.nn.functional.interpolate(x, (size, size), mode="bilinear", align_corners=False)
    rest = x.shape[-1] - size
    corners = [x[..., top : top + size, left : left + size] for top in (0, rest) for left in (0, rest)]
    shown = torch.stack([whole, *corners], 1)  # [B, 5, 3, size, size]
    return torch.cat([shown, shown.flip(-1)], 1)
