"""Published results name their episodes by (seed, split, k): each pixel of them must stay what it was in version 0.1.

The digests were computed with version 0.1, where turns and moves were encoded in row numbers.
"""

import hashlib
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from fewshot.datasets.base import ImageSet
from fewshot.datasets.cache import Prepared
from fewshot.datasets.turned import ONE_PER_TASK_AND_CLASS, turned_classes, turned_splits
from fewshot.ops import random
from fewshot.sampler import EpisodeSampler
from fewshot.streams import EpisodeStream, MinibatchStream
from fewshot.transforms import Shift

SIZES = (9, 30, 12, 11, 10, 20, 9, 13)
DIGESTS = {
    "episodes none 0 False": "039b5c97702f9c7a",
    "episodes none 0 True": "2944429c2a048f61",
    "stream none 0": "e6991ea0430eaf5e",
    "minibatches none 0": "1598311f0d3effcf",
    "parts none 0": "1360ac42bce8c1be",
    "episodes none 2 False": "3eb853c85498fd7e",
    "episodes none 2 True": "4182959b9f503c2a",
    "stream none 2": "fadada0163db3f80",
    "minibatches none 2": "7d16941384a2a05a",
    "parts none 2": "21093ed4b7371044",
    "episodes task 0 False": "809733573136cb20",
    "episodes task 0 True": "ea11a75bf29c56b7",
    "stream task 0": "88d78aa8b9d7fc28",
    "minibatches task 0": "48051a572512bacd",
    "parts task 0": "2e5809e7981dcf8c",
    "episodes task 2 False": "2aab0af813a760b3",
    "episodes task 2 True": "e962196f02576bda",
    "stream task 2": "aa60c7817b6d6cee",
    "minibatches task 2": "e0f33115dd5df445",
    "parts task 2": "6af7ab3c2cee0ed2",
    "episodes classes 0 False": "b931d4e2af296a99",
    "episodes classes 0 True": "53aec3910ab0e867",
    "stream classes 0": "3095cc6966b37352",
    "minibatches classes 0": "af71e2314606aa24",
    "parts classes 0": "8ae35c52cf76f066",
    "episodes classes 2 False": "eae0589a5dee0f13",
    "episodes classes 2 True": "ed6e1128a73cf5c5",
    "stream classes 2": "39171ed79f4ffcd2",
    "minibatches classes 2": "b5ea146c982c3263",
    "parts classes 2": "da4669c280cf02f0",
    "oblong shift 3": "e1e12ecbefaeb5d0",
}


def image_set(rotations: str, folder: object, height: int = 8, width: int = 8) -> ImageSet:
    rows = sum(SIZES)
    pixels = random.mix(7, torch.arange(rows * 2 * height * width)) & 255
    data = Prepared(
        pixels.to(torch.uint8).view(rows, 2, height, width), torch.tensor([0, *SIZES]).cumsum(0),
        [f"c{c}" for c in range(8)], list("aaaabbbb"),
    )  # fmt: skip
    splits = {"train": [0, 1, 2, 4, 5, 6, 7], "test": [3]}
    if rotations == "classes":
        data, splits = turned_classes(str(folder), "golden", {}, data), turned_splits(splits, 8)
    transforms = [ONE_PER_TASK_AND_CLASS] if rotations == "task" else []
    return ImageSet(name="golden", **data._asdict(), splits=splits, transforms=transforms)


def digest(batches: Iterable[Iterable[Tensor]]) -> str:
    found = hashlib.sha256()
    for batch in batches:
        for tensor in batch:
            found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("rotations", ["none", "task", "classes"])
def test_streams_are_those_of_version_0_1(rotations: str, shift: int, tmp_path: object) -> None:
    images = image_set(rotations, tmp_path)
    moves = [Shift(pixels=shift)] if shift else []
    found = {}
    for within in (False, True):
        draws = EpisodeSampler(
            images, "train", ways=3, shots=2, queries=3, seed=5, within_groups=within, transforms=moves
        )
        found[f"episodes {rotations} {shift} {within}"] = digest([draws.sample(0, 6), draws.sample(10**6, 2)])
    draws = EpisodeSampler(images, "train", ways=3, shots=1, queries=2, seed=1, transforms=moves)
    stream = EpisodeStream(draws, 4, part=1, parts=2)
    found[f"stream {rotations} {shift}"] = digest(stream.batch(k) for k in (0, 1, 63, 64, 130))
    for name, part in (("minibatches", {}), ("parts", {"part": 2, "parts": 3})):
        batches = MinibatchStream(images, "train", batch_size=12, seed=3, transforms=moves, **part)
        found[f"{name} {rotations} {shift}"] = digest(batches.batch(k) for k in (0, 5, 40))
    assert found == {name: DIGESTS[name] for name in found}


def test_oblong_images_are_moved_as_in_version_0_1(tmp_path: object) -> None:
    images = image_set("none", tmp_path, 5, 7)
    draws = EpisodeSampler(images, "train", ways=3, shots=2, queries=3, seed=5, transforms=[Shift(pixels=3)])
    assert digest([draws.sample(0, 6)]) == DIGESTS["oblong shift 3"]
