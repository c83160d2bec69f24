"""From a picture file to what a pre-trained network is shown of it. Layer 1.

A picture is shown in four views: its centre, the whole of it, and both mirrored. Their scores are averaged, and as
support pictures they count as copies: docs/pictures.md has what that is worth.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from PIL import Image

VIEWS = 4  # centre, whole, and both mirrored


class Size(NamedTuple):
    """The centre: the shorter side becomes `resize`, then the middle `crop` x `crop` are cut out."""

    crop: int
    resize: int


def pixels_hash(picture: Image.Image) -> str:
    """Equal exactly for pictures with the same pixels, whatever their file."""
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()


def views(picture: Image.Image, size: Size, interpolation: str) -> np.ndarray:
    """RGB -> [4, 3, crop, crop] uint8: centre, centre mirrored, whole, whole mirrored."""
    method = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    scale = size.resize / min(picture.size)
    wide, high = (max(size.crop, round(side * scale)) for side in picture.size)
    left, top = (wide - size.crop) // 2, (high - size.crop) // 2
    centre = picture.resize((wide, high), method).crop((left, top, left + size.crop, top + size.crop))
    whole = picture.resize((size.crop, size.crop), method)
    shown = np.stack([np.asarray(centre), np.asarray(whole)]).transpose(0, 3, 1, 2)  # [2, 3, S, S]
    return np.stack([shown, shown[..., ::-1]], 1).reshape(VIEWS, *shown.shape[1:])
