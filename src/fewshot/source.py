"""The images of one split: rows in, transformed images out. Layer 2."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fewshot.datasets.base import ImageSet
from fewshot.engine.read_ahead import is_large, read_ahead
from fewshot.errors import InputError
from fewshot.transforms import Transform, centre, described


class Source:
    """The images of one split on one device, ready to gather."""

    def __init__(self, images: ImageSet, split: str, device: torch.device) -> None:
        self.classes = torch.tensor(list(images.split(split)))
        self.starts = images.offsets[:-1][self.classes].to(device)
        sizes = (images.offsets[1:] - images.offsets[:-1])[self.classes]
        self.sizes, self.count = sizes.to(device), int(sizes.sum())
        self.pixels = images.images  # on the device already, where they fit (`ImageSet.on`)
        self.shape, self.device = images.image_shape, device
        self.reads_ahead = is_large(self.pixels)

    @property
    def on_device(self) -> bool:
        """Whether all images lie on the device, so that a CUDA graph can hold `gather`."""
        return self.pixels.device.type == self.device.type

    def gather(self, rows: Tensor, transforms: Sequence[Transform], keys: Callable[[Transform], Tensor]) -> Tensor:
        """Image rows [...] -> float32 images [..., C, H, W] in [0, 1].

        keys: the keys [...] with which the images take part in a transform's draws.
        """
        flat = self.pixels.index_select(0, rows.flatten().to(self.pixels.device))
        if self.device.type == "cuda" and flat.is_cpu:  # too many images for the device: nobody waits for the copy
            flat = flat.pin_memory()
        x = flat.to(self.device, non_blocking=True).to(torch.float32).div_(255)
        for transform in transforms:
            x = transform(x, keys(transform).flatten())
        return centre(x, self.shape[1:]).reshape(*rows.shape, *self.shape)

    def expect(self, *rows: Tensor) -> None:
        """Have these rows read, which come next; of use where `reads_ahead` is true."""
        read_ahead(self.pixels, torch.cat([part.flatten() for part in rows]))


def pipeline(images: ImageSet, *more: Iterable[Transform]) -> list[Transform]:
    """The data set's own transforms and `more`, tried on a black image: what cannot work is the user's error."""
    transforms = [*images.transforms, *(t for group in more for t in group)]
    lanes: dict[int, Transform] = {}
    x = torch.zeros(1, *images.images.shape[1:])
    for transform in transforms:
        if not isinstance(transform, Transform):
            raise InputError(f"{_kind(transform)} is in the place of a transform; expected a subclass of Transform")
        if (other := lanes.setdefault(transform.lane, transform)) is not transform:
            raise InputError(f"{transform} would draw what {other} draws; use only one {type(other).__name__}")
        given, x = x, transform(x, torch.zeros(1, dtype=torch.int64))
        if not isinstance(x, Tensor) or x.ndim != 4 or len(x) != 1 or x.dtype != torch.float32:
            gave = f"{list(x.shape)} {x.dtype}" if isinstance(x, Tensor) else _kind(x)
            raise InputError(f"{transform} gave {gave} for images {list(given.shape)}; expected float32 [1, C, H, W]")
    wanted = images.image_shape
    if x.shape[1] != wanted[0] or x.shape[2] < wanted[1] or x.shape[3] < wanted[2]:
        raise InputError(
            f"the transforms {', '.join(described(transforms))} give images of {'x'.join(map(str, x.shape[1:]))} for "
            f"a model of {'x'.join(map(str, wanted))}; change their sizes, or dataset.size"
        )
    return transforms


def _kind(made: Any) -> str:
    return f"a {type(made).__name__}"
