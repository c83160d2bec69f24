"""Image transforms: pure functions of images and keys. Layer 1.

    (images [B, C, H, W] float32 in [0, 1], keys [B] int64) -> [B, C, h, w] float32 in [0, 1]

What a transform draws is a hash of the image's key (`ops.random`): the same image of the same episode is changed
in the same way in every batch and on every device. All images are changed at once; nothing waits for the device.

A transform is a class whose constructor's parameters are the keys of its YAML node; `conf/augment` has examples.
Those named as in torchvision.transforms have the distributions that they have there.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fewshot.errors import InputError, check_choice, check_least
from fewshot.ops import random

CROP_TRIES = 10  # of RandomResizedCrop, as in torchvision
GREY = (0.2989, 0.587, 0.114)  # ITU-R 601 luma of red, green, blue, as in torchvision


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Base class. per: image (each image draws for itself) | class (one draw for all images of a class of a task).

    lane: the number that keeps its draws apart from those of other transforms on the same image.
    draws: whether keys matter; without that an image is the same in every episode, and can be embedded once.
    """

    draws: ClassVar[bool] = True
    per: str = "image"

    def __post_init__(self) -> None:
        check_choice(f"{type(self).__name__}: per", self.per, ("image", "class"))

    @property
    def lane(self) -> int:
        return random.key(0, type(self).__name__)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        raise NotImplementedError

    def __str__(self) -> str:
        options = {k: v for k, v in vars(self).items() if (k, v) != ("per", "image")}
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in options.items())})"

    def _check(self, right: bool, what: str) -> None:
        if not right:
            raise InputError(f"{self}: {what}")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """The group `augment/`: what happens to images in training, and to support images at validation and test.

    train, support: transforms in the order of the YAML file; their names there are for overrides only.
    support_copies: each support image is replaced by so many copies changed by `support`; 0 leaves it as it is.
    """

    train: Mapping[str, Transform] = field(default_factory=dict)
    support: Mapping[str, Transform] = field(default_factory=dict)
    support_copies: int = 0

    def __post_init__(self) -> None:
        check_least("augment", 0, support_copies=self.support_copies)
        if self.support_copies and not self.support:
            raise InputError(
                f"augment.support_copies={self.support_copies}, but augment.support has no transforms and the copies "
                "would all be alike; choose another augment=NAME, or augment.support_copies=0"
            )


class QuarterTurn(Transform):
    """Turned counter-clockwise by 0, 90, 180 or 270 degrees. Square images only."""

    lane = -1  # published results were drawn in it

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        self._check(height == width, f"the images are {height}x{width}; only square ones can be turned")
        places = torch.arange(height * width, device=images.device).view(height, width)
        sources = torch.stack([places.rot90(r) for r in range(4)]).flatten(1)  # [4, H*W]
        source = sources[random.below(keys, 4)][:, None]  # [B, 1, H*W]
        flat = images.flatten(2)
        return flat.gather(2, source.expand_as(flat)).view_as(images)


@dataclass(frozen=True, kw_only=True)
class Shift(Transform):
    """Moved by up to `pixels` pixels along each axis; what comes in is the edge, repeated."""

    lane = -2  # published results were drawn in it
    pixels: int

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        most = min(height, width) - 1
        self._check(0 <= self.pixels <= most, f"these images can be moved by 0 to {most} pixels")
        side = 2 * self.pixels + 1
        move = random.below(keys, side * side)
        y = torch.arange(height, device=images.device) - (move // side - self.pixels)[:, None]  # [B, H]
        x = torch.arange(width, device=images.device) - (move % side - self.pixels)[:, None]  # [B, W]
        return _taken(images, y.clamp(0, height - 1), x.clamp(0, width - 1))


@dataclass(frozen=True, kw_only=True)
class RandomCrop(Transform):
    """A window of size x size (null: the image's own size) of the image with `padding` pixels around it.

    mode: zero | reflect, what the padding is made of.
    """

    padding: int = 0
    mode: str = "zero"
    size: int | None = None

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        room = [n + 2 * self.padding - (self.size or n) for n in (height, width)]
        self._check(self.mode in ("zero", "reflect"), "mode can be zero or reflect")
        self._check(
            min(room) >= 0 <= self.padding and (self.mode == "zero" or self.padding < min(height, width)),
            f"no such window can be cut from images of {height}x{width}",
        )
        bits = _bits(keys, 2)
        y, x = (
            torch.arange(self.size or n, device=keys.device) + random.below(b, free + 1)[:, None] - self.padding
            for n, free, b in zip((height, width), room, bits, strict=True)
        )  # [B, h], [B, w]; outside 0..n-1 in the padding
        if self.mode == "reflect":
            return _taken(images, _reflected(y, height), _reflected(x, width))
        window = _taken(images, y.clamp(0, height - 1), x.clamp(0, width - 1))
        inside = ((y >= 0) & (y < height))[:, None, :, None] & ((x >= 0) & (x < width))[:, None, None, :]
        return window * inside


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(Transform):
    """A window of random area and side ratio, resized to size x size (bilinear, antialiased).

    size: null is the image's own. scale: range of the window's area, as a share of the image's. ratio: range of its
    width / height, uniform in its logarithm.
    Where none of CROP_TRIES draws fits into the image, the largest window in the middle whose ratio is in range.
    """

    size: int | None = None
    scale: Sequence[float] = (0.08, 1.0)
    ratio: Sequence[float] = (3 / 4, 4 / 3)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = (self.size if self.size is not None else n for n in images.shape[-2:])
        self._check(height >= 1 and 0 < self.scale[0] <= self.scale[1], "size and scale must be above 0")
        self._check(0 < self.ratio[0] <= self.ratio[1], "ratio must be a range above 0")
        top, left, high, wide = self.windows(keys, *images.shape[-2:])
        rows = _resampling(top, high, images.shape[-2], height)  # [B, h, H]
        columns = _resampling(left, wide, images.shape[-1], width)  # [B, w, W]
        return torch.einsum("byh,bchw,bxw->bcyx", rows, images, columns).clamp_(0, 1)

    def windows(self, keys: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Top, left, height and width of each image's window, [B] int64."""
        draws = random.uniform(_bits(keys, 2 * CROP_TRIES)).unflatten(0, (2, CROP_TRIES))  # [2, tries, B]
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * draws[0])
        low, high = (math.log(r) for r in self.ratio)
        ratio = (low + (high - low) * draws[1]).exp()
        sides = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()]).round().long()  # [2, tries, B]
        fits = (sides[0] >= 1) & (sides[0] <= height) & (sides[1] >= 1) & (sides[1] <= width)
        tries = torch.arange(CROP_TRIES, device=keys.device)[:, None]
        first = torch.where(fits, tries, CROP_TRIES).amin(0)  # [B]
        chosen = sides.gather(1, first.clamp(max=CROP_TRIES - 1).expand(2, 1, -1))[:, 0]  # [2, B]
        middle = self._middle(height, width)
        none = first == CROP_TRIES
        h, w = (torch.where(none, side, own) for side, own in zip(middle, chosen, strict=True))
        bits = _bits(keys, 2, start=2 * CROP_TRIES)
        y = torch.where(none, (height - middle[0]) // 2, random.below(bits[0], height - h + 1))
        x = torch.where(none, (width - middle[1]) // 2, random.below(bits[1], width - w + 1))
        return y, x, h, w

    def _middle(self, height: int, width: int) -> tuple[int, int]:
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        return (height, round(height * ratio)) if ratio < width / height else (round(width / ratio), width)


@dataclass(frozen=True, kw_only=True)
class RandomHorizontalFlip(Transform):
    """Left and right exchanged with `probability`."""

    probability: float = 0.5

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        self._check(0 <= self.probability <= 1, "probability must be 0 to 1")
        flipped = random.uniform(_bits(keys, 1)[0]) < self.probability
        return torch.where(flipped[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True, kw_only=True)
class ColorJitter(Transform):
    """Brightness, then contrast, then saturation, each by a factor uniform in 1 - strength .. 1 + strength.

    (torchvision draws the order of the three anew each time.) Grey images keep their saturation.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        strengths = (self.brightness, self.contrast, self.saturation)
        self._check(min(strengths) >= 0, "no strength can be below 0")
        self._check(images.shape[1] in (1, 3), f"the images have {images.shape[1]} channels, not 1 or 3")
        draws = random.uniform(_bits(keys, 3))[..., None, None, None]  # [3, B, 1, 1, 1]
        brightness, contrast, saturation = (
            max(0.0, 1 - s) + (1 + s - max(0.0, 1 - s)) * u for s, u in zip(strengths, draws, strict=True)
        )
        # The first line makes a copy, which the others change in place.
        images = (images * brightness).clamp_(0, 1) if self.brightness else images.clone()
        if self.contrast:
            grey = _grey(images.mean((2, 3), keepdim=True))  # the mean of the grey image, [B, 1, 1, 1]
            images.mul_(contrast).add_(grey * (1 - contrast)).clamp_(0, 1)
        if self.saturation and images.shape[1] == 3:
            grey = _grey(images)
            images.mul_(saturation).add_(grey.mul_(1 - saturation)).clamp_(0, 1)
        return images


@dataclass(frozen=True, kw_only=True)
class CenterCrop(Transform):
    """The size x size pixels in the middle."""

    draws = False
    size: int

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        self._check(1 <= self.size <= min(height, width), f"the images are {height}x{width}")
        return centre(images, (self.size, self.size))


@dataclass(frozen=True, kw_only=True)
class Resize(Transform):
    """Resized (bilinear, antialiased) until the shorter side has `size` pixels."""

    draws = False
    size: int

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        self._check(self.size >= 1, "size must be at least 1")
        height, width = images.shape[-2:]
        short = min(height, width)
        size = (self.size * height // short, self.size * width // short)
        return interpolate(images, size, mode="bilinear", antialias=True).clamp_(0, 1)


def centre(images: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of [B, C, H, W]: [B, C, *size]."""
    top, left = (round((n - own) / 2) for n, own in zip(images.shape[-2:], size, strict=True))
    return images[..., top : top + size[0], left : left + size[1]]


def described(transforms: Iterable[Transform]) -> list[str]:
    """Each with its options, for a protocol."""
    return [str(transform) for transform in transforms]


def _bits(keys: Tensor, draws: int, start: int = 0) -> Tensor:
    """keys [B] -> [draws, B] random bits."""
    return random.mix(keys, torch.arange(start, start + draws, device=keys.device)[:, None])


def _taken(images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Rows y [B, h] and columns x [B, w] of each image: [B, C, h, w]."""
    images = images.gather(2, y[:, None, :, None].expand(-1, images.shape[1], -1, images.shape[3]))
    return images.gather(3, x[:, None, None, :].expand(-1, *images.shape[1:3], -1))


def _reflected(places: Tensor, size: int) -> Tensor:
    """-1 -> 1, size -> size - 2: the edge itself is not repeated."""
    return (size - 1) - ((size - 1) - places.abs()).abs()


def _resampling(start: Tensor, length: Tensor, size: int, out: int) -> Tensor:
    """[B, out, size] weights of the pixels start..start+length-1 of `size` in each of `out`; triangle filter."""
    scale = (length / out)[:, None, None]
    at = torch.arange(out, device=start.device)[:, None] + 0.5
    pixel = torch.arange(size, device=start.device)
    first, last = start[:, None, None], (start + length - 1)[:, None, None]
    distance = (pixel + 0.5 - first - at * scale).abs() / scale.clamp(min=1)
    weight = (1 - distance).clamp(min=0) * ((pixel >= first) & (pixel <= last))
    return weight / weight.sum(-1, keepdim=True)


def _grey(images: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 1, H, W]."""
    if images.shape[1] == 1:
        return images
    grey = images[:, :1] * GREY[0]
    for c in (1, 2):
        grey.add_(images[:, c : c + 1], alpha=GREY[c])
    return grey
