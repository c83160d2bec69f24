"""miniImageNet: 100 classes of ImageNet, 600 colour photographs each, split 64/16/20. Layer 1.

Source: Vinyals et al. (2016), Matching networks for one shot learning, arXiv:1606.04080; the classes, images and
split that everybody uses since are those of Ravi & Larochelle (2017), Optimization as a model for few-shot learning.

No official address has the images. Read are, whatever their size,
    - ImageNet's own class folders, nXXXXXXXX/nXXXXXXXX_*.JPEG: Ravi's 600 of each class, by the list of their numbers;
    - class folders with 600 files each, in the root or one level below it (train/, val/, test/): the images of a class
      are brought together from wherever they are, and the class lists alone decide on the split;
    - Ravi's train.csv, val.csv and test.csv (filename,label) beside the folder images/;
    - either of the pickles in `mini_imagenet_pickles.py`, without running what may be in them.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fewshot.datasets import cache, mini_imagenet_pickles
from fewshot.datasets.class_lists import class_lists
from fewshot.datasets.picture_set import PictureSet, Source, class_folders, files_in, of_files
from fewshot.errors import InputError
from fewshot.pictures import Pictures

IMAGES = 600  # of each class


@dataclass(frozen=True, kw_only=True)
class MiniImagenet(PictureSet):
    """The data set of `conf/dataset/mini_imagenet.yaml`; a class is named by its WordNet number, as nXXXXXXXX."""

    name = "mini_imagenet"
    folders = ("mini_imagenet", "miniImageNet", "mini-imagenet", "ILSVRC2012", "imagenet")
    needs = (
        "its class folders (nXXXXXXXX/*.jpg; ImageNet's own will do), Ravi's CSV files with the folder images, or its "
        "pickles"
    )

    def lists(self) -> Mapping[str, Sequence[str]]:
        return class_lists(self.name)

    def counts(self) -> Mapping[str, int]:
        return {split: IMAGES * len(names) for split, names in self.lists().items()}

    def split_protocol(self) -> dict[str, str]:
        return {"split": "ravi"}

    def source(self, root: Path) -> Source:
        if pickled := mini_imagenet_pickles.find(root):
            found = of_files("its pickles", {"": pickled}, self.unreadable)
            return found._replace(build=lambda write, pictures: self._from_pickles(write, pictures, pickled))
        files = self._files(root)
        return of_files(f"{IMAGES} files of each of {len(files)} classes", files, self.unreadable)

    def _files(self, root: Path) -> dict[str, list[Path]]:
        """The files of each class, in the order of their names; classes in that of the lists."""
        names = [name for listed in self.lists().values() for name in listed]
        of_class: dict[str, list[Path]] = {name: [] for name in names}
        if (root / "train.csv").exists():
            for name, path in self._listed(root):
                if name in of_class:
                    of_class[name].append(path)
        else:
            for folder in class_folders(root, names):
                of_class[folder.name] += [folder / file for file in files_in(folder)]
        for name, paths in of_class.items():
            paths[:] = _ravis(name, paths)
            if len(paths) != IMAGES:
                raise InputError(
                    f"{root}: class {name} has {len(paths)} files, expected {IMAGES}; miniImageNet has {IMAGES} of "
                    f"each of {len(names)} classes"
                )
            paths.sort(key=lambda path: (path.name, str(path)))
        return of_class

    def _listed(self, root: Path) -> Iterator[tuple[str, Path]]:
        """(class, file) of the three CSV files."""
        for split in self.lists():
            path = root / f"{split}.csv"
            try:
                with path.open(newline="") as file:
                    rows = list(csv.DictReader(file))
                yield from ((row["label"], root / "images" / row["filename"]) for row in rows)
            except (OSError, KeyError, TypeError, csv.Error, UnicodeDecodeError) as error:  # a short line has None
                reason = f"it has no column {error}" if isinstance(error, KeyError) else str(error)
                raise InputError(f"{path} cannot be read: {reason}; expected the columns filename and label") from error

    def _from_pickles(self, write: cache.Write, pictures: Pictures, paths: Sequence[Path]) -> cache.Classes:
        """The classes of the lists, in their order; one file is in memory at a time."""
        names: list[str] = []
        for path, listed in zip(paths, self.lists().values(), strict=True):
            images, rows = mini_imagenet_pickles.read(path)
            for name in listed:
                if (count := len(rows.get(name, ()))) != IMAGES:
                    raise InputError(f"{path}: class {name} has {count} images, expected {IMAGES}")
                write(pictures.read(images[rows[name]]))
                names.append(name)
        return cache.Classes(torch.arange(len(names) + 1) * IMAGES, names, [""] * len(names))


def _ravis(name: str, paths: list[Path]) -> list[Path]:
    """Of the files of a class those that Ravi chose, where they are ImageNet's own, nXXXXXXXX_<number>.JPEG."""
    if len(paths) <= IMAGES or not any(path.name.startswith(f"{name}_") for path in paths):
        return paths
    chosen = {f"{name}_{number}" for number in class_lists("mini_imagenet_files")[name]}
    return [path for path in paths if path.stem in chosen]
