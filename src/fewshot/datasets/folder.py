"""A user's own pictures: class folders, folders train, val and test of class folders, or a CSV file. Layer 1.

A class is named by the path of the folder that holds its pictures, or by the CSV file's label; its group, for episodes
within groups, is what comes before the last "/" of that. How a file becomes an image is told in `decoding.py`.
"""

import hashlib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot.copies import Copies
from fewshot.datasets import cache
from fewshot.datasets.base import ImageSet
from fewshot.datasets.class_splits import SPLITS, as_listed, by_fractions
from fewshot.datasets.labelled_files import Labelled, in_folders, in_list
from fewshot.datasets.picture_files import NAMED, Written, write_pictures
from fewshot.errors import FewshotError, InputError, some
from fewshot.folders import name_of
from fewshot.pictures import JPEG, Pictures
from fewshot.printable import printable

NAME = "folder"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, the usual ones for photographs
FEW = 30  # classes; of fewer, 64/16/20 leaves less than five for validation


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The data set of `conf/dataset/folder.yaml`, which explains the options.

    load: images [M, 3, stored_size, stored_size] uint8, of which a model is given the middle size x size pixels.
    """

    cache_dir: str
    root: str | None = None
    size: int = 84
    stored_size: int | None = None
    fit: str = "crop"
    split: str | Mapping[str, Any] | None = None
    fractions: Sequence[float] = (0.64, 0.16, 0.2)
    split_seed: int = 0
    at_least: int = 1
    unreadable: str = "error"

    def __post_init__(self) -> None:
        if self.root is None:
            raise InputError("dataset=folder needs dataset.root=DIR, a folder with a folder of pictures for each class")
        if self.size < 1 or self._stored < self.size:
            raise InputError(
                f"dataset.size={self.size}, dataset.stored_size={self._stored}; choose a size of 1 or more, and a "
                "stored size that is not below it"
            )
        if self.split != "fractions" and not isinstance(self.split, Mapping | None):
            raise InputError(f"dataset.split={self.split} is unknown; choose fractions, null, or lists of classes")

    def load(self) -> ImageSet:
        """The data set; the first time, and after any of its files has changed, they are decoded.

        InputError where the folder or a picture cannot be used.
        """
        found = self._found()
        data = self._prepared(found)
        how, split = self._split(found, self._large(data))
        ids = {name: c for c, name in enumerate(data.class_names)}
        splits = {part: sorted(ids[name] for name in names) for part, names in split.items()}
        instead = f"do without training, with a pre-trained network: {self._prediction(found)}"
        notes = [*found.notes, *data.notes, *self._notes(data, split, instead)]
        return ImageSet(
            name=name_of(self._root()),
            **(data._asdict() | {"notes": [printable(note) for note in notes]}),
            splits=splits | {"trainval": sorted(splits["train"] + splits["val"])},
            size=self.size,
            mean=MEAN,
            std=STD,
            protocol=self._protocol(how, data, _count(found)),
            few_classes=instead,
            few_images="leave such classes out by dataset.at_least",
        )

    def verify(self) -> str:
        """Decode every picture again and read the prepared array again: one line about them.

        InputError that names all pictures that cannot be used, FewshotError where the array is not what they are now.
        """
        found, digest = self._found(), hashlib.sha256()
        self._write(lambda images: digest.update(images.contiguous().numpy().data), found, named=_count(found))
        entry = cache.verify(self._cache(), NAME, self._key(found))
        said = f"{self._root()}: {_count(found)} pictures of {len(found.files)} classes tried"
        if entry is None:
            return f"{said}; not prepared yet"
        if self._prepared(found).content != digest.hexdigest():
            raise FewshotError(f"{said}, but {entry} holds other images; delete that folder and prepare again")
        return f"{said}; prepared array {entry} is intact"

    def _prepared(self, found: Labelled) -> cache.Prepared:
        groups = [name.rpartition("/")[0] for name in found.files]

        def build(write: cache.Write) -> cache.Classes:
            offsets, notes = self._write(write, found, named=NAMED)
            return cache.Classes(offsets, list(found.files), groups, notes)

        return cache.prepared(self._cache(), NAME, self._key(found), build)

    def _write(self, write: cache.Write, found: Labelled, named: int) -> Written:
        side, copies = self._stored, Copies()
        pictures = Pictures(image_shape=(3, side, side), side=side, fit=self.fit)
        return write_pictures(write, found.files, pictures, unreadable=self.unreadable, copies=copies, named=named)

    def _found(self) -> Labelled:
        root = self._root()
        found = in_list(root) if root.suffix.lower() == ".csv" else in_folders(root, by_class=self.split is not None)
        if len(found.files) < 2:
            raise InputError(f"{root} has one class, {next(iter(found.files))}; two are needed to tell apart")
        return found

    def _split(self, found: Labelled, kept: Sequence[str]) -> tuple[str, dict[str, list[str]]]:
        """How the classes are split, in a word, and the classes of each split."""
        if isinstance(self.split, Mapping):
            lists = as_listed(self.split, list(found.files))
            return "lists", {part: [name for name in names if name in kept] for part, names in lists.items()}
        if self.split is None and found.split:
            several = [name for name in kept if len(found.split[name]) > 1]
            if several:
                raise InputError(
                    f"{len(several)} classes are in more than one of train, val and test ({some(several)}), and those "
                    "of val and test must be new ones; dataset.split=fractions splits by class instead"
                )
            return "given", {part: [name for name in kept if part in found.split[name]] for part in SPLITS}
        return "fractions", by_fractions(kept, self.fractions, self.split_seed)

    def _large(self, data: cache.Prepared) -> list[str]:
        """The classes with enough pictures."""
        sizes = data.offsets.diff().tolist()
        return [name for name, size in zip(data.class_names, sizes, strict=True) if size >= self.at_least]

    def _notes(self, data: cache.Prepared, split: Mapping[str, list[str]], instead: str) -> list[str]:
        large, used = self._large(data), {name for names in split.values() for name in names}
        notes = []
        if small := sorted(set(data.class_names) - set(large)):
            notes.append(f"{len(small)} classes with fewer than {self.at_least} pictures left out ({some(small)})")
        if idle := sorted(set(large) - used):
            notes.append(f"{len(idle)} classes are in no split ({some(idle)})")
        if split["train"] and len(used) < FEW:
            notes.append(f"{len(used)} classes are few to learn about others from; better {instead}")
        return notes

    def _protocol(self, how: str, data: cache.Prepared, files: int) -> dict[str, Any]:
        """What shapes a number, beside the classes of each split."""
        drawn = {"fractions": list(self.fractions), "split_seed": self.split_seed} if how == "fractions" else {}
        left_out = {"at_least": self.at_least, "left_out": files - len(data.images)}  # unreadable files and copies
        made = {"rotations": "none", "split": how, "resize": "bilinear", "fit": self.fit, "jpeg": JPEG}
        return made | drawn | left_out | {"content": data.content[:12]}

    def _prediction(self, found: Labelled) -> str:
        """The command that needs no training."""
        root = self._root()
        support = "DIR" if root.is_file() else root / "train" if found.split else root
        return f"fewshot predict support={shlex.quote(str(support))} query=NEW"

    def _key(self, found: Labelled) -> dict[str, Any]:
        """What the array is made of: classes, names, sizes and times of the files, wherever their folder is."""
        files = hashlib.sha256()
        for label, paths in found.files.items():
            for path in paths:
                files.update(os.fsencode(f"{label}/{path.name} {_stamp(path)}\n"))
        options = {"side": self._stored, "fit": self.fit, "unreadable": self.unreadable, "jpeg": JPEG}
        return options | {"files": files.hexdigest()}

    @property
    def _stored(self) -> int:
        return self.stored_size if self.stored_size is not None else round(self.size * 8 / 7)

    def _root(self) -> Path:
        return Path(str(self.root)).expanduser().absolute()

    def _cache(self) -> Path:
        return Path(self.cache_dir).expanduser()


def _count(found: Labelled) -> int:
    return sum(map(len, found.files.values()))


def _stamp(path: Path) -> str:
    try:
        about = path.stat()
    except OSError:  # what is wrong with it is said when it is read
        return "unreadable"
    return f"{about.st_size} {about.st_mtime_ns}"
