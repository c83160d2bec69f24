"""Pictures that a data set has more than once: genuine sets have some, and a number may depend on them. Layer 1."""

import hashlib
from collections import Counter
from typing import NamedTuple

import numpy as np

from fewshot.datasets.base import ImageSet
from fewshot.folders import some


class Duplicates(NamedTuple):
    groups: int  # of pictures that are alike pixel for pixel
    across: int  # of those, the ones with pictures in more than one of train, val and test

    def __str__(self) -> str:
        if not self.groups:
            return "no two images are alike pixel for pixel"
        return f"{self.groups} groups of images are alike pixel for pixel, {self.across} of them in several splits"


def duplicates(images: ImageSet) -> Duplicates:
    """Compare all images of the splits; memory is needed for a digest of each."""
    split_of = {c: split for split in ("train", "val", "test") for c in images.splits.get(split, ())}
    found: dict[bytes, list[str]] = {}
    for c, split in split_of.items():
        for image in images.images[int(images.offsets[c]) : int(images.offsets[c + 1])].numpy():
            found.setdefault(_digest(image), []).append(split)
    alike = [splits for splits in found.values() if len(splits) > 1]
    return Duplicates(len(alike), sum(len(set(splits)) > 1 for splits in alike))


class Copies:
    """Finds pictures that come a second time, by their pixels, while a data set is being made."""

    def __init__(self) -> None:
        self.left_out: list[str] = []  # names of second pictures of the same class
        self._classes: dict[bytes, list[str]] = {}  # of the same pixels

    def is_new(self, image: np.ndarray, label: str, name: str) -> bool:
        """Whether the class `label` does not have this picture yet; name: of the picture, for the notes."""
        classes = self._classes.setdefault(_digest(image), [])
        if label in classes:
            self.left_out.append(name)
            return False
        classes.append(label)
        return True

    def notes(self) -> list[str]:
        """What a user should know of them, a line each."""
        shared = Counter(tuple(classes) for classes in self._classes.values() if len(classes) > 1)
        copies = [f"{len(self.left_out)} copies of pictures of the same class left out ({some(self.left_out)})"]
        return (copies if self.left_out else []) + [
            f"{count} pictures are in {' and in '.join(classes)}, the same pixels; nothing can tell them apart"
            for classes, count in shared.items()
        ]


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
