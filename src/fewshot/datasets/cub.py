"""CUB: 200 species of birds, 11 788 colour photographs, in three splits of the literature that must not be mixed.

Source: Wah, Branson, Welinder, Perona & Belongie (2011), The Caltech-UCSD Birds-200-2011 dataset;
https://www.vision.caltech.edu/datasets/cub_200_2011. The folder CUB_200_2011 unpacked from its archive is read.
    closerlook     100/50/50, Chen et al. (2019), A closer look at few-shot classification, arXiv:1904.04232
    feat           100/50/50, Ye et al. (2020), FEAT, arXiv:1812.03664: other classes, and pictures cut to the
                   bounding box of their bird, which is worth 15 points. 23 of its 50 classes to test are among those
                   of training in `closerlook`
    meta_dataset   140/30/30, Triantafillou et al. (2020), Meta-Dataset, arXiv:1903.03096
Layer 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewshot.datasets.class_lists import class_lists
from fewshot.datasets.picture_set import PictureSet, Source, of_files
from fewshot.errors import InputError, check_choice
from fewshot.pictures import Box

COUNTS = {
    "closerlook": {"train": 5885, "val": 2950, "test": 2953},
    "feat": {"train": 5891, "val": 2932, "test": 2965},
    "meta_dataset": {"train": 8239, "val": 1779, "test": 1770},
}
CROPPED = ("feat",)  # to the bounding boxes


@dataclass(frozen=True, kw_only=True)
class Cub(PictureSet):
    """The data set of `conf/dataset/cub.yaml`; a class is named by its folder, as 001.Black_footed_Albatross."""

    split: str = "closerlook"

    name = "cub"
    folders = ("CUB_200_2011", "cub/CUB_200_2011", "cub")
    needs = (
        "the folder CUB_200_2011 (images.txt, bounding_boxes.txt, images/) of the archive that "
        "https://www.vision.caltech.edu/datasets/cub_200_2011 offers"
    )
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as Chen et al. have it

    def __post_init__(self) -> None:
        check_choice("dataset.split", self.split, tuple(COUNTS))
        super().__post_init__()

    def lists(self) -> Mapping[str, Sequence[str]]:
        return class_lists(self.name)[self.split]

    def counts(self) -> Mapping[str, int]:
        return COUNTS[self.split]

    def split_protocol(self) -> dict[str, str]:
        cropped = self.split in CROPPED
        return {"split": self.split} | (
            {"cropped_to": "bounding box", "jpeg": "whole"} if cropped else {"cropped_to": "nothing"}
        )

    def source(self, root: Path) -> Source:
        files: dict[str, list[Path]] = {name: [] for names in self.lists().values() for name in names}
        number_of: dict[str, Path] = {}
        for number, name in _rows(root / "images.txt", 2):
            number_of[number] = root / "images" / name
            files.setdefault(name.partition("/")[0], []).append(number_of[number])
        for split, names in self.lists().items():
            self.check(split, sum(len(files[name]) for name in names), root / "images.txt")
        boxes: dict[Path, Box] | None = None
        if self.split in CROPPED:
            rows = _rows(root / "bounding_boxes.txt", 5)
            boxes = {number_of[n]: _box(sides, root) for n, *sides in rows if n in number_of}
            if len(boxes) != len(number_of):
                raise InputError(f"{root}/bounding_boxes.txt has boxes of {len(boxes)} of {len(number_of)} images")
        return of_files(f"{len(number_of)} files of {len(files)} classes", files, self.unreadable, boxes)


def _box(sides: Sequence[str], root: Path) -> Box:
    try:
        left, top, width, height = map(float, sides)
        round(left + top + width + height)  # neither is a number that is none
    except (ValueError, OverflowError) as error:
        raise InputError(f"{root}/bounding_boxes.txt: {' '.join(sides)} is no box; expected four numbers") from error
    return left, top, left + width, top + height


def _rows(path: Path, columns: int) -> Iterator[list[str]]:
    """The lines of a text file, each of so many words; InputError where it is not so."""
    try:
        rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}; dataset.root needs the folder CUB_200_2011") from error
    for number, row in enumerate(rows, 1):
        if len(row) != columns:
            raise InputError(f"{path}, line {number}: {len(row)} words, expected {columns}")
        yield row
