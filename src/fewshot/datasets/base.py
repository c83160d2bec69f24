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
from fewshot.transforms import Transform


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """All images of a data set in one array, class by class.

    images: [M, C, H, W] uint8, memory-mapped as a rule, at the size at which they are stored.
    offsets: [classes + 1] int64; class c owns the rows offsets[c]..offsets[c+1].
    class_names, groups: one per class; a group is what a within-group episode draws from (an alphabet).
    splits: name -> class ids; disjoint, but for unions that are named as such ("trainval").
    size: side of the images that a model is given, where those stored are larger: the middle is cut out, unless a
        transform of the training has done so. None: as they are stored.
    mean, std: of each channel, of values in [0, 1]: what a backbone subtracts and divides by. None: nothing.
    transforms: what is done to every image that is drawn, in every split; `augment` comes after it.
    protocol: what a result has to say about how the images were made (rotations, resize, inverted, ...).
    notes: what a user should know of the set (what was left out of it, ...), a line each.
    few_classes, few_images: what else can be done where a split has too few classes for an episode, or a class too few
        images.
    content: hash of `images`, where it is known.
    """

    name: str
    images: Tensor
    offsets: Tensor
    class_names: Sequence[str]
    groups: Sequence[str]
    splits: Mapping[str, Sequence[int]]
    size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    transforms: Sequence[Transform] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    few_classes: str | None = None
    few_images: str | None = None
    content: str | None = None

    def __post_init__(self) -> None:
        self._check_images()
        if self.size is not None and not 1 <= self.size <= min(self.images.shape[2:]):
            raise InputError(
                f"data set '{self.name}': size={self.size}, but the images are stored as "
                f"{self.images.shape[2]}x{self.images.shape[3]}; a size can be that at most"
            )
        self._check_normalisation()
        object.__setattr__(self, "splits", {name: self._checked(name, ids) for name, ids in self.splits.items()})
        owner: dict[int, str] = {}
        for split in ("train", "val", "test"):
            for c in self.splits.get(split, ()):
                if c in owner:
                    raise InputError(
                        f"data set '{self.name}': class '{self.class_names[c]}' is in two splits, "
                        f"'{owner[c]}' and '{split}'; splits must be disjoint"
                    )
                owner[c] = split

    def _check_images(self) -> None:
        """InputError unless images, offsets, names and groups are of one another's sizes."""
        images, offsets, classes = self.images, self.offsets, len(self.class_names)
        for name, value in (("images", images), ("offsets", offsets)):
            if not isinstance(value, Tensor):
                raise InputError(f"data set '{self.name}': {name} is a {type(value).__name__}, not a torch.Tensor")
        odd = [name for name in (*self.class_names, *self.groups) if not isinstance(name, str)]
        if odd or not isinstance(self.splits, Mapping):
            raise InputError(f"data set '{self.name}': class_names and groups are texts ({odd[:3]}), splits a mapping")
        if offsets.dtype != torch.int64 or offsets.shape != (classes + 1,) or len(self.groups) != classes:
            raise InputError(
                f"data set '{self.name}': {classes} class names, {len(self.groups)} groups, offsets of shape "
                f"{tuple(offsets.shape)} {offsets.dtype}; expected as many groups as names and int64 [{classes + 1}]"
            )
        if offsets[0] != 0 or (offsets.diff() < 0).any():
            shown = ", ".join(map(str, offsets[:5].tolist()))
            raise InputError(f"data set '{self.name}': offsets {shown}, ...; they start at 0 and never fall")
        rows = int(offsets[-1])
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[0] != rows:
            raise InputError(
                f"data set '{self.name}': images are {tuple(images.shape)} {images.dtype}; "
                f"expected uint8 [{rows}, C, H, W] for {classes} classes"
            )
        if images.shape[1] > 4 >= images.shape[3]:
            raise InputError(
                f"data set '{self.name}': images are {tuple(images.shape)}, channels last; expected [{rows}, C, H, W]: "
                "images.permute(0, 3, 1, 2)"
            )

    def _checked(self, split: str, ids: Any) -> Sequence[int]:
        """The class ids of a split, in any sequence or array. InputError for one that is no class."""
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        if isinstance(ids, str) or not isinstance(ids, Sequence):
            raise InputError(f"data set '{self.name}': split '{split}' is a {type(ids).__name__}, not a list of ids")
        ids = [c.item() if hasattr(c, "item") else c for c in ids] if not isinstance(ids, range) else ids
        classes, seen = len(self.class_names), set[int]()
        for c in ids:
            if not isinstance(c, int) or isinstance(c, bool) or not 0 <= c < classes:
                raise InputError(f"data set '{self.name}': split '{split}' has the class id {c!r}; they are whole "
                                 f"numbers from 0 to {classes - 1}")  # fmt: skip
            if c in seen:
                raise InputError(f"data set '{self.name}': split '{split}' has class {c} twice")
            seen.add(c)
        return ids

    def _check_normalisation(self) -> None:
        channels = self.images.shape[1]
        if (self.mean is None) != (self.std is None):
            raise InputError(f"data set '{self.name}': mean={self.mean}, std={self.std}; give both or neither")
        for name, value in (("mean", self.mean), ("std", self.std)):
            if value is not None and (len(value) != channels or (name == "std" and min(value) <= 0)):
                raise InputError(
                    f"data set '{self.name}': {name}={list(value)} for images of {channels} channels; "
                    f"expected {channels} numbers{' above 0' if name == 'std' else ''}"
                )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """C, H, W of what a model is given."""
        c, h, w = self.images.shape[1:]
        return c, self.size or h, self.size or w

    @property
    def normalization(self) -> dict[str, list[float]] | None:
        """`mean` and `std`, where the set has them."""
        return {"mean": list(self.mean), "std": list(self.std)} if self.mean and self.std else None

    def on(self, device: torch.device) -> "ImageSet":
        """The same set with its images on the device, where they fit into half of its free memory."""
        if device.type != "cuda" or self.images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
            return self
        return replace(self, images=self.images.to(device))

    def split(self, name: str) -> Sequence[int]:
        """Class ids of a split; an unknown or empty one is the user's error."""
        if not self.splits.get(name):
            have = ", ".join(f"{k} ({len(v)})" for k, v in self.splits.items())
            instead = f"; give it some, or {self.few_classes}" if self.few_classes else ""
            raise InputError(f"split '{name}' of '{self.name}' has no classes; there are: {have}{instead}")
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
