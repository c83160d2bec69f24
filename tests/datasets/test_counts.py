"""The table of docs/data.md: classes and images of each split of each data set."""

import re
from pathlib import Path
from typing import Any

from composed import compose

from fewshot import assemble
from fewshot.construct import construct
from fewshot.datasets.class_lists import class_lists
from fewshot.datasets.picture_set import PictureSet

ROOT = Path(__file__).parents[2]
SPLITS = ("train", "val", "test")


def counted(name: str, split: str) -> list[int]:
    """Three numbers of classes, three of images."""
    words = [f"dataset={name}", *([f"dataset.split={split}"] if split else [])]
    config: dict[str, Any] = compose("config", words).config
    if name in ("cifar_fs", "fc100"):  # whose content is verified: 600 of each class
        classes = [len(class_lists(name)[split]) for split in SPLITS]
        return classes + [600 * n for n in classes]
    dataset = construct(config["dataset"], "dataset")
    if isinstance(dataset, PictureSet):  # which insists on these
        return [len(dataset.lists()[s]) for s in SPLITS] + [dataset.counts()[s] for s in SPLITS]
    images = assemble.load_images(config)
    sizes = images.offsets.diff()
    return [len(images.splits[s]) for s in SPLITS] + [int(sizes[list(images.splits[s])].sum()) for s in SPLITS]


def test_the_documented_numbers_of_classes_and_images() -> None:
    rows = re.findall(r"^\| `(\w+)` ?(\w*) ((?:\| \d+ ){6})\|$", (ROOT / "docs" / "data.md").read_text(), re.MULTILINE)
    shipped = {file.stem for file in (ROOT / "conf" / "dataset").glob("*.yaml")}
    assert {name for name, *_ in rows} == shipped - {"folder"}  # which has what its user has
    for name, split, numbers in rows:
        found = [int(n) for n in numbers.split("|")[1:]]
        if name == "omniglot":  # its classes are counted in test_omniglot.py, on the archives
            assert found[3:] == [20 * n for n in found[:3]]
            assert sum(found[:3]) == 1623
        else:
            assert counted(name, split) == found, f"{name} {split}"
