"""From a picture file to what a pre-trained network is shown of it. Layer 1.

A picture is shown in four views: its centre, the whole of it, and both mirrored. Their scores are averaged, and as
support pictures they count as copies: docs/pictures.md has what that is worth.
"""

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fewshot.errors import InputError

VIEWS = 4  # centre, whole, and both mirrored
# Palettes, alpha, CMYK and grey are Pillow's to convert; these are grey values up to 65535, which it would cut off.
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class Size(NamedTuple):
    """The centre: the shorter side becomes `resize`, then the middle `crop` x `crop` are cut out."""

    crop: int
    resize: int


def read(path: Path) -> bytes:
    """A file's content. InputError where it cannot be had."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def decode(content: bytes, name: str) -> Image.Image:
    """Any format that Pillow knows -> RGB, upright by its EXIF orientation, transparency on white, its first frame.

    16-bit grey is scaled to 8 bits. InputError where it is no picture, broken, or above Pillow's limit of 179 million
    pixels (a bomb).
    """
    try:
        picture: Image.Image = Image.open(io.BytesIO(content))
        if picture.width * picture.height > 2 * (Image.MAX_IMAGE_PIXELS or 0):  # Pillow's own check is a warning first
            raise Image.DecompressionBombError(f"{picture.width}x{picture.height} pixels are too many")
        picture.load()
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in DEEP:
            picture = Image.fromarray((np.asarray(picture, dtype=np.float64) / 257).clip(0, 255).astype(np.uint8))
        if picture.has_transparency_data:
            paper = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(paper, picture.convert("RGBA"))
        return picture.convert("RGB")
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} is too large: {' '.join(str(error).split())}; make it smaller") from error
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = "it is no picture" if isinstance(error, OSError) and "identify" in str(error) else str(error)
        raise InputError(f"{name} cannot be read: {' '.join(reason.split())}") from error


def pixels_hash(picture: Image.Image) -> str:
    """Equal exactly for pictures with the same pixels, whatever their file."""
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()


def views(picture: Image.Image, size: Size, interpolation: str) -> Tensor:
    """RGB -> [4, 3, crop, crop] uint8: centre, centre mirrored, whole, whole mirrored."""
    method = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    scale = size.resize / min(picture.size)
    wide, high = (max(size.crop, round(side * scale)) for side in picture.size)
    left, top = (wide - size.crop) // 2, (high - size.crop) // 2
    centre = picture.resize((wide, high), method).crop((left, top, left + size.crop, top + size.crop))
    whole = picture.resize((size.crop, size.crop), method)
    shown = torch.from_numpy(np.stack([np.asarray(centre), np.asarray(whole)])).permute(0, 3, 1, 2)  # [2, 3, S, S]
    return torch.stack([shown, shown.flip(-1)], 1).flatten(0, 1)
