"""Data sets of pictures that users have to bring: where these lie, and how they become one array. Layer 1.

A data set names its classes, split by split, and looks for one of the forms in which its pictures go round.
"""

import hashlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from fewshot.datasets import cache
from fewshot.datasets.base import ImageSet
from fewshot.datasets.picture_files import write_pictures
from fewshot.errors import InputError
from fewshot.pictures import JPEG, Box, Pictures

MEAN, STD = (0.4721, 0.4533, 0.4099), (0.2772, 0.2678, 0.2845)  # of miniImageNet in MetaOptNet and RFS, of 255


class Source(NamedTuple):
    """One form of a data set, as it was found.

    key: what the images depend on, beside the options. build: writes the classes, in the order of the lists.
    """

    what: str
    key: Mapping[str, Any]
    build: Callable[[cache.Write, Pictures], cache.Classes]


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """Subclasses give what has no value here: class variables and methods.

    load: images [M, 3, stored_size, stored_size] uint8, of which a model is given the middle `size`.
    """

    data_dir: str
    cache_dir: str
    root: str | None = None
    size: int = 84
    stored_size: int | None = None
    fit: str = "crop"
    unreadable: str = "error"

    name: ClassVar[str]
    folders: ClassVar[Sequence[str]]  # below data_dir
    needs: ClassVar[str]  # what belongs into them
    mean: ClassVar[Sequence[float]] = MEAN
    std: ClassVar[Sequence[float]] = STD

    def __post_init__(self) -> None:
        if not 1 <= self.size <= (self.stored_size or self.size):
            raise InputError(
                f"dataset.size={self.size}, stored_size={self.stored_size} of '{self.name}'; a size is at least 1 and "
                "at most the stored one"
            )

    def lists(self) -> Mapping[str, Sequence[str]]:
        """Split -> names of its classes."""
        raise NotImplementedError

    def counts(self) -> Mapping[str, int]:
        """Split -> how many images it has, as published."""
        raise NotImplementedError

    def source(self, root: Path) -> Source:
        """The form in which the data set is in `root`; InputError where it is not, or not all of it."""
        raise NotImplementedError

    def split_protocol(self) -> dict[str, Any]:
        """What the protocol says beside how the pictures were made: the split."""
        raise NotImplementedError

    def load(self) -> ImageSet:
        """The data set; the first time its pictures are decoded. InputError where they are not there, or not all."""
        source = self.source(self._root())
        data = cache.prepared(self._cache(), self.name, self._key(source), lambda w: source.build(w, self._pictures()))
        ends = list(itertools.accumulate(map(len, self.lists().values()), initial=0))
        splits = {
            split: list(range(*place)) for split, place in zip(self.lists(), itertools.pairwise(ends), strict=True)
        }
        missing = sum(self.counts().values()) - len(data.images)
        made = {"rotations": "none", "resize": "bilinear", "fit": self.fit, "jpeg": JPEG}
        return ImageSet(
            name=self.name,
            **data._asdict(),
            splits=splits | {"trainval": splits["train"] + splits["val"]},
            size=self.size,
            mean=self.mean,
            std=self.std,
            protocol=made | self.split_protocol() | ({"unreadable": missing} if missing else {}),
        )

    def verify(self) -> str:
        """Look for the pictures and read the prepared array again: one line about them, or an error."""
        root = self._root()
        source = self.source(root)
        entry = cache.verify(self._cache(), self.name, self._key(source))
        array = f"prepared array {entry} is intact" if entry else "not prepared yet"
        return f"{self.name}: {root} has {source.what}; {array}"

    def check(self, split: str, found: int, where: object) -> None:
        """InputError where the number of a split's images is not the published one, unless some may be left out."""
        expected = self.counts()[split]
        if found > expected or (found < expected and self.unreadable == "error"):
            raise InputError(
                f"{where}: {found} images of split '{split}', expected {expected}; it needs all of them and no others"
                + (" (dataset.unreadable=skip does without those that are missing)" if found < expected else "")
            )

    def _pictures(self) -> Pictures:
        side = self.stored_size or self.size
        return Pictures(image_shape=(3, side, side), side=side, fit=self.fit)

    def _key(self, source: Source) -> Mapping[str, Any]:
        options = {"size": self.stored_size or self.size, "fit": self.fit, "unreadable": self.unreadable, "jpeg": JPEG}
        return options | dict(source.key)

    def _cache(self) -> Path:
        return Path(self.cache_dir).expanduser()

    def _root(self) -> Path:
        data = Path(self.data_dir).expanduser()
        folders = [data / name for name in self.folders] if self.root is None else [Path(self.root).expanduser()]
        for folder in folders:
            if folder.is_dir():
                return folder
        where = f"in {data} as {', '.join(self.folders)}" if self.root is None else f"in {folders[0]}"
        raise InputError(f"'{self.name}' is not {where}; put there {self.needs}, or set dataset.root")


def of_files(
    what: str, files: Mapping[str, Sequence[Path]], unreadable: str, boxes: Mapping[Path, Box] | None = None
) -> Source:
    """Picture files by class. The array depends on their names and sizes, wherever their folder is.

    boxes: file -> the part of its picture that is used; None: all of it.
    """
    names = hashlib.sha256()
    for name, paths in files.items():
        for path in paths:
            size = path.stat().st_size if path.exists() else None
            names.update(f"{name}/{path.name} {size} {(boxes or {}).get(path, '')}\n".encode(errors="surrogateescape"))

    def build(write: cache.Write, pictures: Pictures) -> cache.Classes:
        offsets, notes = write_pictures(write, files, pictures, unreadable=unreadable, boxes=boxes)
        return cache.Classes(offsets, list(files), [""] * len(files), notes)

    return Source(what, {"files": names.hexdigest()}, build)


def class_folders(root: Path, classes: Sequence[str]) -> list[Path]:
    """The folders of these names in `root`; where it has none, those one level below it."""
    wanted = set(classes)
    for pattern in ("*/", "*/*/"):
        if found := [folder for folder in sorted(root.glob(pattern)) if folder.name in wanted]:
            return found
    return []


def files_in(folder: Path) -> list[str]:
    """Names of the files of a class folder; hidden ones are none of it."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.name[0] != "." and entry.is_file()]
