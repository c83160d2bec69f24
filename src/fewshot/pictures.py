"""Pictures of any size and mode, made into the images that a model was trained on. Layer 1."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fewshot.errors import InputError

FILTERS = {
    "nearest": Image.Resampling.NEAREST, "antialias": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """How a data set made its images: the middle square of a picture, resized, is cut to what the model is given.

    image_shape: C, H, W of the model's images; C is 1 (grey) or 3 (red, green, blue).
    side: of the image before H x W pixels are cut out of its middle; at least H and W.
    resize: nearest | antialias (Lanczos) | bicubic; any other: bilinear. All but nearest average what falls together.
    inverted: ink is 1 and paper is 0.
    """

    image_shape: tuple[int, int, int]
    side: int
    resize: str | None = None
    inverted: bool = False

    @classmethod
    def of_context(cls, context: Mapping[str, Any]) -> Self:
        """From a checkpoint's context; `pictures` is missing in those of version 0.1."""
        c, h, w = context["image_shape"]
        told = {"side": max(h, w)} | dict(context.get("pictures") or {})
        return cls(image_shape=(c, h, w), **told)

    def read(self, images: Iterable[Any]) -> Tensor:
        """Files, PIL images or uint8 arrays ([H, W], [H, W, 3], [3, H, W], ...) -> [M, C, H, W] uint8.

        InputError where there are none, or one is no picture; its place and what is wrong are named.
        """
        rows = [self._pixels(_opened(image, place)) for place, image in enumerate(images)]
        if not rows:
            raise InputError("no images; give a list of paths, PIL images or uint8 arrays")
        return torch.from_numpy(np.stack(rows))

    def _pixels(self, picture: Image.Image) -> np.ndarray:
        channels, height, width = self.image_shape
        picture = ImageOps.exif_transpose(picture)
        if picture.has_transparency_data:  # on white paper
            paper = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(paper, picture.convert("RGBA"))
        if self.resize != "nearest":
            picture = picture.convert("RGB" if channels == 3 else "L")
        size, method = (self.side, self.side), FILTERS.get(self.resize or "", Image.Resampling.BILINEAR)
        picture = ImageOps.fit(picture, size, method).convert("RGB" if channels == 3 else "L")
        top, left = (self.side - height) // 2, (self.side - width) // 2
        pixels = np.asarray(picture)[top : top + height, left : left + width]
        if self.inverted:
            pixels = 255 - pixels
        return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def _opened(image: Any, place: int) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str | Path):
        try:
            picture = Image.open(image)
            picture.load()
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise InputError(f"image {place}, {image}, cannot be read: {' '.join(str(error).split())}") from error
        return picture
    array = np.asarray(image)
    if array.dtype != np.uint8:
        kind = f"{type(image).__name__} of {array.dtype}"
        raise InputError(f"image {place} is a {kind}; give a path, a PIL image or a uint8 array")
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)  # [C, H, W] -> [H, W, C]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise InputError(f"image {place} has the shape {list(array.shape)}; expected [H, W], [H, W, 3] or [3, H, W]")
    return Image.fromarray(np.ascontiguousarray(array))
