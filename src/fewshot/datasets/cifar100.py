"""CIFAR-100: 100 classes of 600 colour photographs, 32x32 pixels; what CIFAR-FS and FC100 are made of. Layer 1.

Source: Krizhevsky (2009), Learning multiple layers of features from tiny images;
https://www.cs.toronto.edu/~kriz/cifar.html. The official binary archive, the Python one, or the folder unpacked
from either can be used: the images are verified by CONTENT, which does not depend on their order.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fewshot.datasets import archive, cache
from fewshot.datasets.archive import Published
from fewshot.datasets.base import ImageSet
from fewshot.datasets.class_lists import class_lists
from fewshot.datasets.pickles import read_arrays
from fewshot.errors import InputError

IMAGES, CLASSES, SIDE = 600, 100, 32
PIXELS = 3 * SIDE * SIDE
UNPACKED = 256 << 20  # bytes; either archive holds 186 million
FOLDERS = ("cifar100", ".")  # below data_dir
BINARY = Published(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    size=168513733,
    sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
)
PYTHON = Published(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    size=169001437,
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
)
# sha256 over the classes in alphabetical order: the name, then the sorted sha256 digests of the images' 3072 bytes.
CONTENT = "a0a2ceaf7d145e659f1aa47e683a6852c59ab03cd828464a59daa48f640895dd"
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # of the 50 000 training images


class Records(NamedTuple):
    """Images as a source has them, in its order."""

    images: list[np.ndarray]  # M of [3072] uint8: red, green, blue, each row by row; in the memory of the raw files
    labels: np.ndarray  # [M] class
    names: list[str]  # of the classes


@dataclass(frozen=True, kw_only=True)
class Cifar100:
    """What the data sets have in common: `splits_of` names the class lists in `splits/`.

    load: images [60000, 3, 32, 32] uint8; the group of a class is its superclass.
    """

    data_dir: str
    cache_dir: str
    download: bool = True

    name = "cifar100"

    def load(self) -> ImageSet:
        """The data set; the first time it is decoded (seconds) and, if not in data_dir, downloaded."""
        data = cache.prepared(self._cache(), "cifar100", {"content": CONTENT}, self._prepare)
        lists = class_lists(self.name)
        splits = {split: [data.class_names.index(name) for name in names] for split, names in lists.items()}
        splits["trainval"] = sorted(splits["train"] + splits["val"])
        return ImageSet(
            name=self.name,
            **data._asdict(),
            splits=splits,
            mean=MEAN,
            std=STD,
            protocol={"rotations": "none", "split": self.name},
        )

    def verify(self) -> str:
        """Read the raw files and the prepared array again: one line about them, or an error that names the damage."""
        found = self._found()
        for path in found:
            by_class(_records(path), path)
        entry = cache.verify(self._cache(), "cifar100", {"content": CONTENT})
        if not entry and not found:
            archive.obtain([BINARY], self._folders(), fetch=False)
        raw = ", ".join(f"{path} holds CIFAR-100's {CLASSES * IMAGES} images" for path in found)
        array = f"prepared array {entry} is intact" if entry else "not prepared yet"
        return f"{self.name}: {raw or f'no raw files in {self.data_dir}'}; {array}"

    def _prepare(self, write: cache.Write) -> cache.Classes:
        path = next(iter(self._found()), None) or archive.obtain([BINARY], self._folders(), fetch=self.download)[0]
        groups = {name: group for group, names in class_lists("cifar100_superclasses").items() for name in names}
        names = []
        for name, images in by_class(_records(path), path):
            write(torch.from_numpy(images).view(-1, 3, SIDE, SIDE))
            names.append(name)
        return cache.Classes(torch.arange(CLASSES + 1) * IMAGES, names, [groups[name] for name in names])

    def _found(self) -> list[Path]:
        return [path for published in (BINARY, PYTHON) if (path := published.find(self._folders()))]

    def _cache(self) -> Path:
        return Path(self.cache_dir).expanduser()

    def _folders(self) -> list[Path]:
        return [Path(self.data_dir).expanduser() / folder for folder in FOLDERS]


def by_class(records: Records, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name, images [600, 3072]) of each class in alphabetical order, the images by their digests.

    So a source's own order does not matter. InputError, before anything is given, where the content is not CONTENT.
    """
    digests = [hashlib.sha256(image.data).digest() for image in records.images]
    of_class: dict[str, list[int]] = {name: [] for name in sorted(records.names)}
    for row, label in enumerate(records.labels.tolist()):
        of_class[records.names[label]].append(row)
    content = hashlib.sha256()
    for name, rows in of_class.items():
        rows.sort(key=digests.__getitem__)
        content.update(name.encode() + b"".join(digests[row] for row in rows))
    if content.hexdigest() != CONTENT:
        sizes = sorted({len(rows) for rows in of_class.values()})
        raise InputError(
            f"{path}: found {len(digests)} images of {len(of_class)} classes ({sizes} each), content "
            f"{content.hexdigest()}; expected {CLASSES * IMAGES} of {CLASSES} ({IMAGES} each), content {CONTENT}; "
            f"delete it and run again, or replace it by {BINARY}"
        )
    for name, rows in of_class.items():
        yield name, np.stack([records.images[row] for row in rows])


def _records(path: Path) -> Records:
    """What an archive or folder holds, binary or Python."""
    members = {name.rpartition("/")[2]: data for name, data in archive.read_members(path, "", limit=UNPACKED)}
    try:
        return _from_binary(members) if "train.bin" in members else _from_python(members, path)
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not CIFAR-100: it has {', '.join(sorted(members)[:8]) or 'no files'} "
            f"({type(error).__name__}: {error}); replace it by {BINARY}"
        ) from error


def _from_binary(members: dict[str, bytes]) -> Records:
    """Records of <superclass><class><3072 bytes>."""
    parts = [np.frombuffer(members.pop(name), np.uint8).reshape(-1, 2 + PIXELS) for name in ("train.bin", "test.bin")]
    names = members["fine_label_names.txt"].decode().split()
    return _joined([part[:, 2:] for part in parts], [part[:, 1] for part in parts], names)


def _from_python(members: dict[str, bytes], path: Path) -> Records:
    """Pickles of dictionaries: data [M, 3072], fine_labels."""
    names = [name.decode() for name in read_arrays(members["meta"], f"{path}/meta")[b"fine_label_names"]]
    parts: list[dict[bytes, Any]] = [read_arrays(members.pop(name), f"{path}/{name}") for name in ("train", "test")]
    return _joined([p[b"data"].reshape(-1, PIXELS) for p in parts], [p[b"fine_labels"] for p in parts], names)


def _joined(images: Sequence[np.ndarray], labels: Sequence[Any], names: list[str]) -> Records:
    together = np.concatenate([np.asarray(part, np.int64) for part in labels])
    if len(together) != sum(map(len, images)) or together.min() < 0 or together.max() >= len(names):
        raise ValueError(f"{len(together)} labels up to {together.max()} of {len(names)} classes")
    return Records([image for part in images for image in part], together, names)
