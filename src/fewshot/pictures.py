"""Pictures of any size and kind, made into images of one size. Layer 1.

How a file is decoded is `decoding.py`'s; this is what becomes of it then, for a data set that is prepared as for a
user's picture that is to be predicted.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewshot.decoding import converted, decode_reduced, read
from fewshot.engine import cores
from fewshot.engine.progress import Progress
from fewshot.errors import InputError, check_choice

FILTERS = {
    "nearest": Image.Resampling.NEAREST, "antialias": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC,
}  # fmt: skip
BATCH = 16  # files that a thread decodes before it gives them back
SMALL = 1 << 14  # bytes; files of 84x84 pixels have about 5000, with which one thread was 1.3 times as fast as two
Box = tuple[float, float, float, float]  # left, top, right, bottom of a part of a picture, in pixels
JPEG = "decoded at 1/8, 1/4 or 1/2 of its size if that leaves 2 pixels or more for each"  # what a protocol says of it
LARGEST_SIDE = 8192  # pixels of a square
AHEAD = 3  # batches for each thread that may wait to be taken


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """How a data set made its images: a picture, resized to a square, is cut to what the model is given.

    image_shape: C, H, W of the model's images; C is 1 (grey) or 3 (red, green, blue).
    side: of the square before H x W pixels are cut out of its middle; at least H and W.
    fit: crop (the square is the middle of the picture, as wide as its shorter side) | squash (all of the picture).
    resize: nearest | antialias (Lanczos) | bicubic; any other: bilinear. All but nearest average what falls together.
    inverted: ink is 1 and paper is 0.
    """

    image_shape: tuple[int, int, int]
    side: int
    fit: str = "crop"
    resize: str | None = None
    inverted: bool = False

    def __post_init__(self) -> None:
        check_choice("fit", self.fit, ("crop", "squash"))
        if not 1 <= self.side <= LARGEST_SIDE:
            raise InputError(f"images of {self.side}x{self.side} pixels; choose a size from 1 to {LARGEST_SIDE}")

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
        rows = [self._image(image, place) for place, image in enumerate(images)]
        if not rows:
            raise InputError("no images; give a list of paths, PIL images or uint8 arrays")
        return torch.from_numpy(np.stack(rows))

    def each(
        self, paths: Sequence[Path], boxes: Mapping[Path, Box] | None = None
    ) -> Generator[np.ndarray | str, None, None]:
        """Of each file, in order: its image [C, H, W] uint8, or in one line why it has none.

        boxes: the part of a file's picture that is used; one that has none is used whole.
        Decoded by a thread per core (Pillow does its work outside of Python's lock), a few batches ahead of who
        takes them; progress is shown. The threads end with the process, whatever they are doing.
        """
        Image.init()  # here, not in several threads at once
        threads, one = cores.usable(), threading.Lock()
        waiting: deque[Any] = deque()

        def batch_of(paths: Sequence[Path]) -> list[np.ndarray | str]:
            with one if _are_small(paths) else contextlib.nullcontext():
                return [self._file_or_reason(path, (boxes or {}).get(path)) for path in paths]

        with Progress("decoding pictures", len(paths)) as work, ThreadPool(threads) as pool:
            for start in range(0, len(paths), BATCH):
                waiting.append(pool.apply_async(batch_of, (paths[start : start + BATCH],)))
                last = start + BATCH >= len(paths)
                while len(waiting) > (0 if last else AHEAD * threads):
                    batch = waiting.popleft().get()
                    work.advance(len(batch))
                    yield from batch

    def _file_or_reason(self, path: Path, box: Box | None) -> np.ndarray | str:
        try:
            return self._file(path, box)
        except InputError as error:
            return str(error)

    def _file(self, path: Path, box: Box | None = None) -> np.ndarray:
        """Of a picture much larger than `side`, JPEG's own half size will do: two pixels to average for each."""
        enough = None if self.resize == "nearest" or box else 2 * self.side
        picture, extent = decode_reduced(read(path), str(path), channels=self.image_shape[0], at_least=enough)
        return self._pixels(_part(picture, box, path)) if box else self._pixels(picture, extent)

    def _image(self, image: Any, place: int) -> np.ndarray:
        if isinstance(image, str | Path):
            try:
                return self._file(Path(image))
            except InputError as error:
                raise InputError(f"image {place}, {error}") from error
        picture = image if isinstance(image, Image.Image) else _of_array(image, place)
        try:
            return self._pixels(converted(picture, self.image_shape[0]))
        except (ValueError, OSError, SyntaxError) as error:  # a PIL image is only read now
            raise InputError(f"image {place} cannot be used: {error}") from error

    def _pixels(self, picture: Image.Image, extent: tuple[float, float] | None = None) -> np.ndarray:
        """L or RGB -> [C, H, W]. extent: its width and height, where not all of the last pixels is of the picture."""
        channels, height, width = self.image_shape
        size, method = (self.side, self.side), FILTERS.get(self.resize or "", Image.Resampling.BILINEAR)
        right, bottom = extent or picture.size
        left, top = ((side - min(right, bottom)) / 2 if self.fit == "crop" else 0 for side in (right, bottom))
        picture = picture.resize(size, method, box=(left, top, right - left, bottom - top))
        top, left = (self.side - height) // 2, (self.side - width) // 2
        pixels = np.asarray(picture)[top : top + height, left : left + width]
        if self.inverted:
            pixels = 255 - pixels
        return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def _part(picture: Image.Image, box: Box, path: Path) -> Image.Image:
    """What of the box lies in the picture, in whole pixels."""
    left, top, right, bottom = map(round, box)
    inside = (max(left, 0), max(top, 0), min(right, picture.width), min(bottom, picture.height))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise InputError(f"{path}: the box {box} has nothing of its {picture.width}x{picture.height} pixels")
    return picture.crop(inside)


def _are_small(paths: Sequence[Path]) -> bool:
    """Whether decoding is mostly Python's own work, for which threads would only wait for each other: by the first."""
    try:
        return paths[0].stat().st_size < SMALL
    except OSError:
        return False


def _of_array(image: Any, place: int) -> Image.Image:
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
