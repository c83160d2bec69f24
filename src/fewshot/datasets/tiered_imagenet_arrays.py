"""The forms in which tieredImageNet used to go round as arrays, two files for each split. Layer 1.

<split>_labels.pkl   label_specific [M] and label_general [M] with their names in label_specific_str and
    label_general_str (Ren et al. 2018, arXiv:1803.00676), or only labels [M] (the files of MetaOptNet's authors)
<split>_images_png.pkl   a PNG file of each image, or
<split>_images.npz   images [M, 84, 84, 3] uint8. Blue comes first, as OpenCV has it. Code that took it for red
    (MetaOptNet's) saw other colours than code that did not (Meta-Baseline's); here it becomes red, green, blue.
"""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fewshot.datasets.archive import DAMAGE
from fewshot.datasets.pickles import read_arrays
from fewshot.decoding import decode
from fewshot.errors import InputError

AT_ONCE = 512  # images


class Pair(NamedTuple):
    """The files of one split."""

    labels: Path
    images: Path


class Labels(NamedTuple):
    """Which rows are of which class."""

    rows: np.ndarray  # [M] int64, class after class
    counts: list[int]  # of each class
    names: list[str]
    groups: list[str]


def find(root: Path) -> list[Pair]:
    """The pairs of train, val and test; none where one of them is not there."""
    pairs = []
    for split in ("train", "val", "test"):
        labels = root / f"{split}_labels.pkl"
        images = [root / f"{split}_images{form}" for form in (".npz", "_png.pkl")]
        pairs += [Pair(labels, path) for path in images if path.is_file() and labels.is_file()][:1]
    return pairs if len(pairs) == 3 else []


def read_labels(path: Path, split: str) -> Labels:
    """Classes in the order in which they appear; one without a name is called by its split and number."""
    with path.open("rb") as file:
        content = read_arrays(file, str(path))
    try:
        data = {_text(key): value for key, value in content.items()}
        labels = np.asarray(data["label_specific"] if "label_specific" in data else data["labels"]).astype(np.int64)
        found, first, counts = np.unique(labels, return_index=True, return_counts=True)
        appearing = first.argsort()
        found, first, counts = found[appearing], first[appearing], counts[appearing]
        place = {int(label): i for i, label in enumerate(found)}
        rows = np.array([place[int(label)] for label in labels]).argsort(kind="stable")
        names, groups = [f"{split} {label}" for label in found], [""] * len(found)
        if "label_specific_str" in data:  # two of ImageNet's classes may have one name
            names = [f"{_text(data['label_specific_str'][i])} ({split} {i})" for i in found]
            groups = [_text(data["label_general_str"][int(data["label_general"][i])]) for i in first]
        return Labels(rows, counts.tolist(), names, groups)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{path} has no labels of tieredImageNet: {type(error).__name__}: {error}") from error


def read_images(path: Path, rows: np.ndarray) -> Iterator[Sequence[Any]]:
    """The images of these rows, some at a time, as arrays [84, 84, 3] or PIL images; InputError where it is damaged.

    An array is read as it is needed where the rows are in order, else whole, as the PNG files are.
    """
    if path.suffix == ".pkl":
        with path.open("rb") as file:
            content = read_arrays(file, str(path))
        if not isinstance(content, list) or len(content) != len(rows):
            have = len(content) if isinstance(content, list) else "no list of"
            raise InputError(f"{path} has {have} images for {len(rows)} labels")
        for some in _parts(rows):
            yield [_picture(content[row], f"{path}, image {row}") for row in some]
        return
    try:
        with zipfile.ZipFile(path) as archive, archive.open("images.npy") as member:
            shape, dtype = _header(member)
            if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or shape[0] != len(rows):
                raise ValueError(f"it has images {list(shape)} {dtype}, not [{len(rows)}, H, W, 3] uint8")
            whole = None if (np.diff(rows) == 1).all() else np.frombuffer(member.read(), np.uint8).reshape(shape)
            for some in _parts(rows):
                size = len(some) * int(np.prod(shape[1:]))
                part = whole[some] if whole is not None else np.frombuffer(member.read(size), np.uint8)
                yield list(part.reshape(len(some), *shape[1:])[..., ::-1])
    except (KeyError, *DAMAGE) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _header(member: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of a .npy file, as numpy writes it: rows one after the other."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(member)
    if by_columns:
        raise ValueError("its images are stored by columns")
    return shape, dtype


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[i : i + AT_ONCE] for i in range(0, len(rows), AT_ONCE))


def _picture(content: Any, name: str) -> Image.Image:
    return decode(content.tobytes() if isinstance(content, np.ndarray) else bytes(content), name)


def _text(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)
