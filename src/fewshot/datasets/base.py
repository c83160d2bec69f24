"""What a data set is to the rest of the project. Layer 1.

A data set class has a `load()` that returns an `ImageSet`; its constructor's parameters are the keys of its
YAML file, `data_dir` and `cache_dir` among them. See `glyphs.py` for one that makes its images and
`omniglot.py` for one that reads them; docs/own.md shows one of a user's own.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from fewshot.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """All images of a data set in one array, class by class.

    images: [turns*M, C, H, W] uint8, memory-mapped as a rule; rows r*M..(r+1)*M are the same M images
        turned by r quarter turns (counter-clockwise), r < turns.
    offsets: [classes + 1] int64; class c owns the rows offsets[c]..offsets[c+1] of the M.
    class_names, groups: one per class; a group is what a within-group episode draws from (an alphabet).
    splits: name -> class ids; disjoint, but for unions that are named as such ("trainval").
    turns: 4 when the sampler may draw one rotation per class and task, else 1.
    protocol: what a result has to say about how the images were made (rotations, resize, inverted, ...).
    """

    name: str
    images: Tensor
    offsets: Tensor
    class_names: Sequence[str]
    groups: Sequence[str]
    splits: Mapping[str, Sequence[int]]
    turns: int = 1
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        rows = self.turns * int(self.offsets[-1])
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[0] != rows:
            raise InputError(
                f"data set '{self.name}': images are {tuple(self.images.shape)} {self.images.dtype}; "
                f"expected uint8 [{rows}, C, H, W] for {classes} classes"
            )
        if len(self.offsets) != classes + 1 or len(self.groups) != classes:
            raise InputError(
                f"data set '{self.name}': {classes} class names, {len(self.groups)} groups, "
                f"{len(self.offsets)} offsets; expected as many groups as names and one offset more"
            )
        owner: dict[int, str] = {}
        for split in ("train", "val", "test"):
            for c in self.splits.get(split, ()):
                if c in owner:
                    raise InputError(
                        f"data set '{self.name}': class '{self.class_names[c]}' is in two splits, "
                        f"'{owner[c]}' and '{split}'; splits must be disjoint"
                    )
                owner[c] = split

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        c, h, w = self.images.shape[1:]
        return c, h, w

    def on(self, device: torch.device) -> "ImageSet":
        """The same set with its images on the device, where they fit into half of its free memory."""
        if device.type != "cuda" or self.images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
            return self
        return replace(self, images=self.images.to(device))

    def split(self, name: str) -> Sequence[int]:
        """Class ids of a split; an unknown or empty one is the user's error."""
        if not self.splits.get(name):
            have = ", ".join(f"{k} ({len(v)})" for k, v in self.splits.items())
            raise InputError(f"split '{name}' of '{self.name}' has no classes; there are: {have}")
        return self.splits[name]

    def split_hash(self) -> str:
        """Twelve hex digits that name the split: equal exactly when the same class names lie in the same splits."""
        text = "\n".join(
            f"{split}:{name}"
            for split in sorted(self.splits)
            for name in sorted(self.class_names[c] for c in self.splits[split])
        )
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class Dataset(Protocol):
    """A data set of the project or of a user: constructed from its YAML, loaded once."""

    def load(self) -> ImageSet: ...


def quarter_turns(images: Tensor) -> Tensor:
    """[M, C, H, H] -> [4*M, C, H, H]: the images, then turned by 90, 180 and 270 degrees."""
    if images.shape[-1] != images.shape[-2]:
        raise InputError(f"rotations need square images, these are {tuple(images.shape[-2:])}")
    return torch.cat([torch.rot90(images, r, (-2, -1)) for r in range(4)])


def rotated_classes(
    offsets: Tensor, class_names: Sequence[str], groups: Sequence[str], splits: Mapping[str, Sequence[int]]
) -> tuple[Tensor, list[str], list[str], dict[str, list[int]]]:
    """Each quarter turn of a class becomes a class of its own (class ids r*classes + c), in every split.

    For images stored as `quarter_turns` stores them; a turned class stays in its class's split and group.
    """
    classes, rows = len(class_names), int(offsets[-1])
    starts = torch.cat([offsets[:-1] + r * rows for r in range(4)] + [torch.tensor([4 * rows])])
    names = [f"{name}@{90 * r}" for r in range(4) for name in class_names]
    split4 = {split: [r * classes + c for r in range(4) for c in ids] for split, ids in splits.items()}
    return starts, names, list(groups) * 4, split4
