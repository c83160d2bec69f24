"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn by 20 people, 105x105, one bit a pixel.

Source: Lake, Salakhutdinov, Tenenbaum (2015), Human-level concept learning through probabilistic program
induction; https://github.com/brendenlake/omniglot, MIT licence; two archives, background and evaluation.

Splits (characters in train/val/test; "trainval" is the union of the first two):
    vinyals  1028/172/423, by alphabet, as published with prototypical networks (Snell 2017, 1703.05175). One
             alphabet, Gurmukhi, lies in two splits: its characters 42 to 45 test, the others train.
    random   1100/100/423, drawn by `split_seed`. MAML (Finn 2017, 1703.03400) draws this way; its own draw
             depended on the order of a file system and is lost.
    lake     883/81/659, Lake's background and evaluation alphabets. Lake has no validation set: as in
             Meta-Dataset (Triantafillou 2020, 1903.03096) the five smallest background alphabets validate.
             "trainval" is the whole background set, 964.

Pixels: Pillow resizes 1-bit images to the nearest pixel whichever filter it is asked for, so that is what the
code of both papers does (`resize: nearest`, only 0 and 255). `resize: antialias` goes through grey (Lanczos).
Difference from Snell's code: it transposes all images, which to a network trained from scratch is the same.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from fewshot.datasets import archive, cache, turned
from fewshot.datasets.archive import Published
from fewshot.datasets.base import ImageSet
from fewshot.errors import InputError, check_choice

NAME = "omniglot"
DRAWERS = 20
SIDE = 105
UNPACKED = 64 << 20  # bytes; each archive holds under 5 million
FOLDERS = ("omniglot-py", "omniglot", ".")  # below data_dir; the first is torchvision's
OPTIONS = {
    "split": ("vinyals", "random", "lake"),
    "rotations": turned.ROTATIONS,
    "resize": ("nearest", "antialias"),
}


class Part(NamedTuple):
    """One of the two archives. The zip is known by what torchvision and tensorflow_datasets say of it, but
    what decides is `content`, the hash of `_decoded`: a zip packed anew or an unpacked folder is as good.
    """

    zip: Published
    characters: int
    content: str


BACKGROUND = Part(
    Published(
        url="https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_background.zip",
        size=9464212,
        sha256="ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    ),
    characters=964,
    content="a0885971fd3ec8858dd4846b244858c1bd1c16f18d2dd5ee9cfb3a5eabc62625",
)
EVALUATION = Part(
    Published(
        url="https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_evaluation.zip",
        size=6462886,
        sha256="1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    ),
    characters=659,
    content="8aac26d0c81d95c3f35d82ff70c391f5c3b75076595264ad93f7f0b17a62ea98",
)
PARTS = (BACKGROUND, EVALUATION)

VINYALS_VAL = {"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"}
VINYALS_TEST = {
    *("Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya"),
    *("Sylheti", "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG"),
    *(f"Gurmukhi/character{n}" for n in (42, 43, 44, 45)),
}
LAKE_VAL = {
    *("Alphabet_of_the_Magi", "Blackfoot_(Canadian_Aboriginal_Syllabics)", "Tagalog"),
    *("Inuktitut_(Canadian_Aboriginal_Syllabics)", "Ojibwe_(Canadian_Aboriginal_Syllabics)"),
}


@dataclass(frozen=True, kw_only=True)
class Omniglot:
    """The data set of `conf/dataset/omniglot.yaml`, which explains the options.

    load: images [32460, 1, size, size] uint8, ink 255 and paper 0 (`invert: false`: the reverse); with
    `rotations: classes` four times as many.
    Class names are "Alphabet/characterNN"; the group of a class is its alphabet.
    """

    data_dir: str
    cache_dir: str
    split: str = "vinyals"
    split_seed: int = 0
    rotations: str = "task"
    size: int = 28
    resize: str = "nearest"
    invert: bool = True
    download: bool = True

    def __post_init__(self) -> None:
        for key, options in OPTIONS.items():
            check_choice(f"dataset.{key}", getattr(self, key), options)
        if not 1 <= self.size <= SIDE:
            raise InputError(f"dataset.size={self.size} of '{NAME}'; it can be 1 to {SIDE}, the original's")

    def load(self) -> ImageSet:
        """The data set; the first time it is decoded (seconds) and, if not in data_dir, downloaded."""
        data = cache.prepared(self._cache(), NAME, self._key(), self._prepare)
        splits = make_splits(data.class_names, self.split, self.split_seed)
        if self.rotations == "classes":
            splits = turned.turned_splits(splits, len(data.class_names))
            data = turned.turned_classes(self._cache(), NAME, self._key(), data)
        protocol: dict[str, Any] = {"rotations": self.rotations, "resize": self.resize}
        protocol |= {"inverted": self.invert, "split": self.split}
        if self.split == "random":
            protocol["split_seed"] = self.split_seed
        return ImageSet(
            name=NAME,
            **data._asdict(),
            splits=splits,
            transforms=[turned.ONE_PER_TASK_AND_CLASS] if self.rotations == "task" else [],
            protocol=protocol,
        )

    def verify(self) -> str:
        """Read the raw files and the prepared array again.

        One line about them, or InputError that lists all that is damaged in the raw files, or FewshotError
        where the prepared array is.
        """
        sources = [(part, path) for part in PARTS if (path := part.zip.find(self._folders()))]
        damage = []
        for part, path in sources:
            try:
                for _ in _images(part, path, every=True):
                    pass
            except InputError as error:
                damage.append(str(error))
        if damage:
            raise InputError("; ".join(damage))
        entry = cache.verify(self._cache(), NAME, self._key())
        if not entry:
            archive.obtain([part.zip for part in PARTS], self._folders(), fetch=False)
        raw = ", ".join(f"{path} holds its {part.characters} characters" for part, path in sources)
        array = f"prepared array {entry} is intact" if entry else "not prepared yet"
        return f"{NAME}: {raw or f'no raw files in {self.data_dir}'}; {array}"

    def _key(self) -> Mapping[str, Any]:
        content = [part.content for part in PARTS]
        options = {"size": self.size, "resize": self.resize, "invert": self.invert}
        return options | {"content": content}

    def _prepare(self, write: cache.Write) -> cache.Classes:
        paths = archive.obtain([part.zip for part in PARTS], self._folders(), fetch=self.download)
        drawings = (drawing for source in zip(PARTS, paths, strict=True) for drawing in _images(*source))
        names = []
        for character, drawn in groupby(drawings, lambda drawing: drawing[0]):
            pixels = np.stack([shrink(image, self.size, self.resize, self.invert) for _, image in drawn])
            write(torch.from_numpy(pixels).unsqueeze(1))  # [20, 1, size, size]
            names.append(character)
        offsets = torch.arange(len(names) + 1) * DRAWERS
        return cache.Classes(offsets, names, [name.split("/")[0] for name in names])

    def _cache(self) -> Path:
        return Path(self.cache_dir).expanduser()

    def _folders(self) -> list[Path]:
        return [Path(self.data_dir).expanduser() / folder for folder in FOLDERS]


def _images(part: Part, path: Path, *, every: bool = False) -> Iterator[tuple[str, Image.Image]]:
    """(character, 1-bit image) by alphabet, character and file name.

    InputError, with how to fetch the file again: on the first damaged image, or with `every` at the end
    about all of them; at the end where it is another content than the part's.
    """
    try:
        yield from _decoded(part, path, [] if every else None)
    except InputError as error:
        found = archive.fingerprint(path)
        raise InputError(f"{error} ({found}); delete it and run again, or replace it by {part.zip}") from error


def _decoded(part: Part, path: Path, damaged: list[str] | None) -> Iterator[tuple[str, Image.Image]]:
    content, drawings = hashlib.sha256(), Counter[str]()
    members = archive.read_members(path, ".png", limit=UNPACKED, damaged=damaged)
    for where, data in sorted((name.split("/")[-3:], data) for name, data in members):
        character = "/".join(where[:2])
        try:
            image = _decode(data)
        except InputError as error:
            if damaged is None:
                raise InputError(f"{path}: {'/'.join(where)} {error}") from error
            damaged.append(f"{'/'.join(where)} {error}")
            continue
        drawings[character] += 1
        content.update(character.encode() + b"\0" + image.tobytes())
        yield character, image
    if damaged:
        raise InputError(f"{path}: {len(damaged)} damaged images: {', '.join(damaged)}")
    if content.hexdigest() != part.content:
        raise InputError(
            f"{path}: found {drawings.total()} images of {len(drawings)} characters, "
            f"content {content.hexdigest()}; expected {DRAWERS * part.characters} of {part.characters}, "
            f"content {part.content}"
        )


def _decode(data: bytes) -> Image.Image:
    """A 1-bit image of 105x105 pixels; InputError says what else it is."""
    if not data:
        raise InputError("is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        width, height = image.size
        if width == height == SIDE:
            return image.convert("1", dither=Image.Dither.NONE)
    except UnidentifiedImageError:
        raise InputError("is not a PNG image") from None
    except Exception as error:  # Pillow raises many unrelated types on damaged files
        raise InputError(f"cannot be decoded ({error})") from error
    raise InputError(f"has {width}x{height} pixels, expected {SIDE}x{SIDE}")


def shrink(image: Image.Image, size: int, resize: str, invert: bool) -> np.ndarray:
    """1-bit image -> [size, size] uint8."""
    if resize == "antialias":
        image = image.convert("L").resize((size, size), Image.Resampling.LANCZOS)
    else:
        image = image.resize((size, size), Image.Resampling.NEAREST).convert("L")
    pixels = np.asarray(image)
    return 255 - pixels if invert else pixels


def make_splits(names: Sequence[str], split: str, seed: int) -> dict[str, list[int]]:
    """Class ids of each split; `names` are "Alphabet/characterNN", the background characters first."""
    everything = range(len(names))
    alphabets = [name.split("/")[0] for name in names]
    if split == "random":  # by hash: the same with every version of every library
        order = sorted(everything, key=lambda c: hashlib.sha256(f"{seed}/{names[c]}".encode()).digest())
        val, test = order[1100:1200], order[1200:]
    elif split == "vinyals":
        val = [c for c in everything if alphabets[c] in VINYALS_VAL]
        test = [c for c in everything if VINYALS_TEST & {alphabets[c], names[c]}]
    else:
        val = [c for c in everything if alphabets[c] in LAKE_VAL]
        test = list(everything[BACKGROUND.characters :])
    trainval = sorted(set(everything) - set(test))
    train = sorted(set(trainval) - set(val))
    return {"train": train, "val": sorted(val), "test": sorted(test), "trainval": trainval}
