"""miniImageNet: 100 classes of ImageNet, 600 colour photographs each, split 64/16/20. Layer 1.

Source: Vinyals et al. (2016), Matching networks for one shot learning, arXiv:1606.04080; the classes, images and
split that everybody uses since are those of Ravi & Larochelle (2017), Optimization as a model for few-shot learning.

No official address has the images. Read are, whatever their size,
    - class folders, nXXXXXXXX/*, in the root or one level below it (train/, val/, test/): the images of a class are
      brought together from wherever they are, and the class lists alone decide on the split;
    - Ravi's train.csv, val.csv and test.csv (filename,label) beside the folder images/;
    - either of the pickles in `mini_imagenet_pickles.py`, without running what may be in them.
"""

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from fewshot.datasets import cache, mini_imagenet_pickles
from fewshot.datasets.base import ImageSet
from fewshot.datasets.picture_files import write_pictures
from fewshot.errors import InputError
from fewshot.pictures import Pictures

NAME = "mini_imagenet"
IMAGES = 600  # of each class
FOLDERS = ("mini_imagenet", "miniImageNet", "mini-imagenet")  # below data_dir
SPLITS = ("train", "val", "test")
MEAN, STD = (0.4721, 0.4533, 0.4099), (0.2772, 0.2678, 0.2845)  # MetaOptNet's and RFS's, of 255


@dataclass(frozen=True, kw_only=True)
class MiniImagenet:
    """The data set of `conf/dataset/mini_imagenet.yaml`, which explains the options.

    load: images [60000, 3, size, size] uint8; a class is named by its WordNet number, as nXXXXXXXX.
    """

    data_dir: str
    cache_dir: str
    root: str | None = None
    size: int = 84
    fit: str = "crop"
    unreadable: str = "error"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"dataset.size={self.size} of '{NAME}' is below 1")

    def load(self) -> ImageSet:
        """The data set; the first time its files are decoded (about a minute).

        InputError where they are not there, or a class has not its 600.
        """
        lists = class_lists()
        pictures = Pictures(image_shape=(3, self.size, self.size), side=self.size, fit=self.fit)
        found, pickled = self._found()

        def build(write: cache.Write) -> cache.Classes:
            if pickled:
                return _from_pickles(write, pickled, pictures)
            offsets = write_pictures(write, found, pictures, unreadable=self.unreadable)
            return cache.Classes(offsets, list(found), [""] * len(found))

        data = cache.prepared(Path(self.cache_dir).expanduser(), NAME, self._key(found), build)
        splits = {split: [data.class_names.index(c) for c in names] for split, names in lists.items()}
        protocol: dict[str, Any] = {"rotations": "none", "split": "ravi", "resize": "bilinear", "fit": self.fit}
        if missing := IMAGES * len(data.class_names) - len(data.images):
            protocol["unreadable"] = missing
        return ImageSet(
            name=NAME,
            **data._asdict(),
            splits=splits | {"trainval": sorted(splits["train"] + splits["val"])},
            mean=MEAN,
            std=STD,
            protocol=protocol,
        )

    def verify(self) -> str:
        """Look for the files and read the prepared array again: one line about them, or an error."""
        found, pickled = self._found()
        entry = cache.verify(Path(self.cache_dir).expanduser(), NAME, self._key(found))
        array = f"prepared array {entry} is intact" if entry else "not prepared yet"
        have = "its pickles" if pickled else f"{IMAGES} files of each of {len(found)} classes"
        return f"{NAME}: {self._root()} has {have}; {array}"

    def _found(self) -> tuple[dict[str, list[Path]], list[Path]]:
        """Files by class, and the pickles where it is these."""
        pickled = mini_imagenet_pickles.find(self._root())
        return ({"": pickled} if pickled else self._files()), pickled

    def _root(self) -> Path:
        if self.root is not None:
            folders = [Path(self.root).expanduser()]
        else:
            folders = [Path(self.data_dir).expanduser() / name for name in FOLDERS]
        for folder in folders:
            if folder.is_dir():
                return folder
        raise InputError(
            f"'{NAME}' is not in {' or '.join(map(str, folders))}; put its class folders (nXXXXXXXX/*.jpg), "
            f"Ravi's CSV files with the folder images, or its pickles there, or set dataset.root"
        )

    def _files(self) -> dict[str, list[Path]]:
        """The files of each class, in the order of their names; classes in that of the lists."""
        root, names = self._root(), [name for listed in class_lists().values() for name in listed]
        of_class: dict[str, list[Path]] = {name: [] for name in names}
        for name, path in _listed(root) if (root / "train.csv").exists() else _in_class_folders(root):
            if name in of_class:
                of_class[name].append(path)
        for name, paths in of_class.items():
            if len(paths) != IMAGES:
                raise InputError(
                    f"{root}: class {name} has {len(paths)} files, expected {IMAGES}; miniImageNet has {IMAGES} of "
                    f"each of {len(names)} classes (of ImageNet's own folders, Ravi's CSV files choose them)"
                )
            paths.sort(key=lambda path: (path.name, str(path)))
        return of_class

    def _key(self, found: Mapping[str, list[Path]]) -> Mapping[str, Any]:
        """What the array is made of: names and sizes of the files, wherever their folder is."""
        names = hashlib.sha256()
        for name, paths in found.items():
            for path in paths:
                size = path.stat().st_size if path.exists() else None
                names.update(f"{name}/{path.name} {size}\n".encode())
        options = {"size": self.size, "fit": self.fit, "unreadable": self.unreadable}
        return options | {"files": names.hexdigest()}


def class_lists() -> dict[str, list[str]]:
    """Split -> names of its classes."""
    return json.loads((files("fewshot.datasets") / "splits" / f"{NAME}.json").read_text())


def _from_pickles(write: cache.Write, paths: Sequence[Path], pictures: Pictures) -> cache.Classes:
    """The classes of the lists, in their order; one file is in memory at a time."""
    names: list[str] = []
    for path, listed in zip(paths, class_lists().values(), strict=True):
        images, rows = mini_imagenet_pickles.read(path)
        for name in listed:
            if (count := len(rows.get(name, ()))) != IMAGES:
                raise InputError(f"{path}: class {name} has {count} images, expected {IMAGES}")
            write(pictures.read(images[rows[name]]))
            names.append(name)
    return cache.Classes(torch.arange(len(names) + 1) * IMAGES, names, [""] * len(names))


def _in_class_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """(class, file) of root/<class>/* and root/<any>/<class>/*; hidden files are none."""
    for folder in sorted([*root.glob("*/"), *root.glob("*/*/")]):
        if folder.is_dir() and folder.name.startswith("n"):
            with os.scandir(folder) as entries:
                yield from ((folder.name, Path(e.path)) for e in entries if e.is_file() and e.name[0] != ".")


def _listed(root: Path) -> Iterator[tuple[str, Path]]:
    """(class, file) of the three CSV files."""
    for split in SPLITS:
        path = root / f"{split}.csv"
        try:
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            yield from ((row["label"], root / "images" / row["filename"]) for row in rows)
        except (OSError, KeyError, csv.Error, UnicodeDecodeError) as error:
            reason = f"it has no column {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{path} cannot be read: {reason}; expected the columns filename and label") from error
