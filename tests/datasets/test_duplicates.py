"""Images that are alike are counted, and those in several splits apart."""

from collections.abc import Callable
from dataclasses import replace

from fewshot.datasets.base import ImageSet
from fewshot.datasets.duplicates import Duplicates, duplicates


def test_groups_and_splits(make_images: Callable[..., ImageSet]) -> None:
    data = make_images([4, 4, 4, 4], splits={"train": [0, 1], "val": [2], "test": [3], "trainval": [0, 1, 2]})
    assert duplicates(data) == Duplicates(0, 0)
    pixels = data.images.clone()
    pixels[1], pixels[5] = pixels[0], pixels[0]  # three alike, in training alone
    pixels[12] = pixels[8]  # validation and test
    found = duplicates(replace(data, images=pixels))
    assert found == Duplicates(2, 1)
    assert str(found) == "2 groups of images are alike pixel for pixel, 1 of them in several splits"
