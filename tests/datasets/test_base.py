"""What a data set hands over is looked at once: the line names the set, what it gave and what was expected."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from fewshot.datasets.base import ImageSet
from fewshot.errors import InputError


def made(**changed: Any) -> ImageSet:
    """Four classes of three grey 8x8 images, or what a user makes of them."""
    right: dict[str, Any] = {
        "name": "mine", "images": torch.zeros(12, 1, 8, 8, dtype=torch.uint8), "offsets": torch.arange(5) * 3,
        "class_names": list("abcd"), "groups": ["all"] * 4, "splits": {"train": [0, 1], "val": [2], "test": [3]},
    }  # fmt: skip
    return ImageSet(**(right | changed))


@pytest.mark.parametrize("ids", [[0, 1], (0, 1), range(2), np.arange(2), torch.arange(2), [np.int64(0), np.int64(1)]])
def test_class_ids_of_any_kind(ids: Any) -> None:
    found = made(splits={"train": ids})
    assert list(found.split("train")) == [0, 1]
    assert all(type(c) is int for c in found.split("train"))
    assert found.split_hash() == made(splits={"train": [0, 1]}).split_hash()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": np.zeros((12, 1, 8, 8), np.uint8)}, "images is a ndarray, not a torch.Tensor"),
        ({"images": [torch.zeros(1, 8, 8)] * 12}, "images is a list, not a torch.Tensor"),
        ({"images": torch.zeros(12, 1, 8, 8)}, "images are (12, 1, 8, 8) torch.float32; expected uint8 [12, C, H, W]"),
        ({"images": torch.zeros(12, 8, 8, dtype=torch.uint8)}, "images are (12, 8, 8) torch.uint8; expected uint8"),
        ({"images": torch.zeros(9, 1, 8, 8, dtype=torch.uint8)}, "expected uint8 [12, C, H, W] for 4 classes"),
        ({"images": torch.zeros(12, 8, 8, 3, dtype=torch.uint8)}, "(12, 8, 8, 3), channels last; expected [12, C, H"),
        ({"offsets": [0, 3, 6, 9, 12]}, "offsets is a list, not a torch.Tensor"),
        ({"offsets": torch.arange(5) * 3.0}, "offsets of shape (5,) torch.float32; expected as many groups"),
        ({"offsets": torch.arange(4) * 4}, "4 class names, 4 groups, offsets of shape (4,) torch.int64; expected"),
        ({"offsets": torch.tensor([0, 6, 3, 9, 12])}, "offsets 0, 6, 3, 9, 12, ...; they start at 0 and never fall"),
        ({"offsets": torch.tensor([1, 3, 6, 9, 12])}, "they start at 0"),
        ({"groups": ["all"]}, "4 class names, 1 groups"),
        ({"class_names": [0, 1, 2, 3]}, "class_names and groups are texts ([0, 1, 2])"),
        ({"splits": [[0, 1], [2], [3]]}, "splits a mapping"),
        ({"splits": {"train": range(-4, -1)}}, "split 'train' has the class id -4; they are whole numbers from 0 to 3"),
        ({"splits": {"all": [0, 4]}}, "split 'all' has the class id 4; they are"),
        ({"splits": {"all": [0, 1.0]}}, "split 'all' has the class id 1.0; they are"),
        ({"splits": {"all": [True, 2]}}, "split 'all' has the class id True; they are"),
        ({"splits": {"all": ["a"]}}, "split 'all' has the class id 'a'; they are"),
        ({"splits": {"all": {0, 1}}}, "split 'all' is a set, not a list of ids"),
        ({"splits": {"all": "test"}}, "split 'all' is a str, not a list of ids"),
        ({"splits": {"all": [2, 2]}}, "split 'all' has class 2 twice"),
        ({"splits": {"train": [0, 1], "test": [1]}}, "class 'b' is in two splits, 'train' and 'test'"),
        ({"size": 9}, "size=9, but the images are stored as 8x8"),
        ({"mean": [0.5, 0.5], "std": [1.0, 1.0]}, "mean=[0.5, 0.5] for images of 1 channels"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape("data set 'mine': ") + ".*" + re.escape(message)):
        made(**changed)
