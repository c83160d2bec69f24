"""Quarter turns of images: classes of their own, or one turn for each class of a task. Layer 1."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch

from fewshot.datasets import cache
from fewshot.datasets.cache import Classes, Prepared, Write
from fewshot.transforms import QuarterTurn

ROTATIONS = ("none", "task", "classes")
ROWS = 4096  # turned at a time
ONE_PER_TASK_AND_CLASS = QuarterTurn(per="class")


def turned_classes(cache_dir: str | PathLike[str], name: str, key: Mapping[str, Any], upright: Prepared) -> Prepared:
    """Each class again, turned by 90, 180 and 270 degrees: class r*classes + c is class c after r quarter turns.

    The turned images are an array of the cache as well; a turned class stays in its class's group.
    """

    def build(write: Write) -> Classes:
        for r in range(4):
            for rows in upright.images.split(ROWS):
                write(rows.rot90(r, (-2, -1)))
        offsets = torch.cat([upright.offsets[:-1] + r * len(upright.images) for r in range(4)])
        names = [f"{name}@{90 * r}" for r in range(4) for name in upright.class_names]
        return Classes(torch.cat([offsets, torch.tensor([4 * len(upright.images)])]), names, upright.groups * 4)

    return cache.prepared(cache_dir, name, {**key, "turned": "classes"}, build)


def turned_splits(splits: Mapping[str, Sequence[int]], classes: int) -> dict[str, list[int]]:
    """The splits of `turned_classes`: a turned class is in its class's split."""
    return {split: [r * classes + c for r in range(4) for c in ids] for split, ids in splits.items()}
