"""Pictures that a data set has more than once: genuine sets have some, and a number may depend on them. Layer 1."""

import hashlib
from typing import NamedTuple

import numpy as np

from fewshot.datasets.base import ImageSet


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
            found.setdefault(digest(image), []).append(split)
    alike = [splits for splits in found.values() if len(splits) > 1]
    return Duplicates(len(alike), sum(len(set(splits)) > 1 for splits in alike))


def digest(image: np.ndarray) -> bytes:
    """Of an image's pixels."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
