"""Letters and numerals of 14 alphabets, drawn from the typefaces that matplotlib ships: no download. Layer 1.

A class is a letter; its 20 drawings go round the faces that have it, each bent, turned, stretched, shifted
and inked anew, hard enough that comparing pixels goes wrong where a reader still sees the letter. Images are
[M, 1, size, size] uint8 with white ink (255) on black paper, as `omniglot` shows them.

Which letters: those that three or more faces draw. Latin A, Greek Alpha and Cyrillic A are one outline, and
many letters differ from another in weight or size alone, so each outline is a class once, in the alphabet
that `ALPHABETS` names first (`typefaces.distinct_letters`). Arabic letters have a class per form (isolated,
initial, ...). With `rotations: classes`, letters that are a turn of another (b and q, many syllabics) have a
twin, as some of Omniglot's have.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fewshot.datasets import cache, turned
from fewshot.datasets.base import ImageSet
from fewshot.errors import FewshotError, check_choice

NAME = "glyphs"
OPTIONS: dict[str, tuple[str | int, ...]] = {
    "split": ("script",),
    "rotations": turned.ROTATIONS,
    "size": (28, 32, 64, 84),
}
RECIPE = 4  # one more with every change to this file or `typefaces` that moves a pixel
DRAWINGS = 20  # per class, as Omniglot has
CLASSES = 1200  # at least; a version of the typefaces may have a few more or less

# How a character's Unicode name begins -> its alphabet. The order settles who keeps an outline they share.
# Old Italic is not among them: most of its letters are Latin ones, a little wider or narrower.
ALPHABETS = {
    "DIGIT ": "Digits",
    "LATIN ": "Latin",
    "GREEK ": "Greek",
    "COPTIC ": "Coptic",
    "CYRILLIC ": "Cyrillic",
    "ARMENIAN ": "Armenian",
    "GEORGIAN CAPITAL ": "Asomtavruli",  # Georgian is written in three alphabets
    "GEORGIAN SMALL ": "Nuskhuri",
    "GEORGIAN ": "Mkhedruli",
    "HEBREW ": "Hebrew",
    "ARABIC ": "Arabic",
    "ARABIC-INDIC ": "Arabic",
    "LAO ": "Lao",
    "LISU ": "Lisu",
    "CANADIAN SYLLABICS ": "Syllabics",
}
SPLITS = {
    "train": ("Digits", "Latin", "Cyrillic", "Lisu", "Syllabics"),
    "val": ("Greek", "Coptic", "Armenian"),
    "test": ("Asomtavruli", "Nuskhuri", "Mkhedruli", "Hebrew", "Arabic", "Lao"),
}
# Strength of the deformation. Set so that nearest class mean on raw pixels has about 60 % and a prototypical
# network after a minute of training more than 90 % on 5-way 1-shot episodes of the test alphabets.
SEED = 0
ROTATION, SHEAR, STRETCH, SHIFT = math.radians(13), 0.22, 0.14, 0.13  # +-; shift in half image widths
SCALE = (0.85, 1.1)
BEND, MODES = 0.085, 3  # elastic deformation: size in half image widths, waves per axis
INK = (0.2, 0.5)  # grey level of the blurred outline where the ink ends: low is a broad stroke
EDGE = 2.5  # contrast at that level: no more than 0.5 / INK[0], or paper is not black


@dataclass(frozen=True, kw_only=True)
class Glyphs:
    """The data set of `conf/dataset/glyphs.yaml`, which explains the options.

    load: images [25 thousand, 1, size, size] uint8; the letters are the same at every size. Class names are
    "Alphabet/name in Unicode"; the group of a class is its alphabet.
    """

    cache_dir: str
    split: str = "script"
    rotations: str = "none"
    size: int = 28

    def __post_init__(self) -> None:
        for key, options in OPTIONS.items():
            check_choice(f"dataset.{key}", getattr(self, key), options)

    def load(self) -> ImageSet:
        """The data set; the first time it is drawn (some seconds)."""
        data = self._prepared()
        splits = {split: [c for c, g in enumerate(data.groups) if g in SPLITS[split]] for split in SPLITS}
        splits["trainval"] = splits["train"] + splits["val"]
        if self.rotations == "classes":
            splits = turned.turned_splits(splits, len(data.class_names))
            data = turned.turned_classes(self._cache(), NAME, self._key(), data)
        protocol = {"rotations": self.rotations, "resize": None, "inverted": False, "split": self.split}
        return ImageSet(
            name=NAME,
            **data._asdict(),
            splits=splits,
            transforms=[turned.ONE_PER_TASK_AND_CLASS] if self.rotations == "task" else [],
            protocol=protocol | {"typefaces": f"matplotlib {version('matplotlib')}"},
        )

    def verify(self) -> str:
        """Read the prepared array again and count its classes: one line about it, or FewshotError."""
        entry = cache.verify(self._cache(), NAME, self._key())
        if entry is None:
            return f"{NAME}: not prepared yet at size {self.size}"
        data = self._prepared()
        alphabets, drawings = set(data.groups), data.offsets.diff().unique().tolist()
        said = f"{len(data.class_names)} classes in {len(alphabets)} alphabets, {drawings} drawings each"
        if len(data.class_names) < CLASSES or alphabets != set(ALPHABETS.values()) or drawings != [DRAWINGS]:
            raise FewshotError(
                f"{entry} holds {said}, expected {CLASSES} or more in {len(set(ALPHABETS.values()))}, "
                f"{[DRAWINGS]} each: matplotlib {version('matplotlib')} has other typefaces; install another"
            )
        return f"{NAME}: {said}; prepared array {entry} is intact"

    def _prepared(self) -> cache.Prepared:
        return cache.prepared(self._cache(), NAME, self._key(), lambda write: build(self.size, write))

    def _key(self) -> dict[str, Any]:
        # Outlines come from matplotlib, their pixels from Pillow's FreeType: either may move a few of them.
        made_by = {package: version(package) for package in ("matplotlib", "pillow")}
        return {"recipe": RECIPE, "size": self.size, **made_by}

    def _cache(self) -> Path:
        return Path(self.cache_dir).expanduser()


def build(size: int, write: cache.Write) -> cache.Classes:
    """Choose the letters, render each in its faces, and draw every class DRAWINGS times."""
    from fewshot.datasets import typefaces  # Pillow is needed once, not each time the array is opened

    letters: list[typefaces.Letter] = []
    sources: list[np.ndarray] = []  # every letter in every face of its own
    source_of: list[int] = []
    for letter in typefaces.distinct_letters(ALPHABETS):
        images = [
            typefaces.outline(letter.char, face, sheet=2 * size, side=1.5 * size, blur=size / 28)
            for face in letter.faces
        ]
        different = {image.tobytes(): image for image in images if image is not None}
        if len(different) >= typefaces.MIN_FACES:
            source_of += [len(sources) + k % len(different) for k in range(DRAWINGS)]
            sources += different.values()
            letters.append(letter)
    for drawings in draw(torch.from_numpy(np.stack(sources)), torch.tensor(source_of), size):
        write(drawings)
    return cache.Classes(
        torch.arange(len(letters) + 1) * DRAWINGS,
        [f"{letter.group}/{letter.name}" for letter in letters],
        [letter.group for letter in letters],
    )


def draw(sources: Tensor, source_of: Tensor, size: int) -> Iterator[Tensor]:
    """[S, H, H] uint8 outlines, [M] int64 which of them a drawing is of -> [M, 1, size, size] uint8, in pieces."""
    at = (torch.arange(size) + 0.5) / size
    wave = torch.stack([torch.cos(math.pi * k * at) for k in range(1 + MODES)])  # [K, size]
    waves = torch.einsum("ky,lx->klyx", wave, wave).reshape(-1, size * size)  # [K*K, size*size]
    x, y = (2 * at - 1).repeat(size), (2 * at - 1).repeat_interleave(size)
    basis = torch.cat([torch.stack([x, y]), waves])  # [2 + K*K, size*size]
    coefficients, ink_ends = deformations(len(source_of))
    for rows in torch.arange(len(source_of)).split(1024):
        grid = (coefficients[rows] @ basis).view(-1, 2, size, size).permute(0, 2, 3, 1)
        grey = sources[source_of[rows], None].float() / 255
        drawn = F.grid_sample(grey, grid, align_corners=False)  # [B, 1, size, size]
        drawn = (drawn - ink_ends[rows, None, None, None]) * (EDGE * size / 28) + 0.5
        yield (drawn.clamp(0, 1) * 255).round().to(torch.uint8)


def deformations(count: int) -> tuple[Tensor, Tensor]:
    """Where each point of a drawing comes from, and where its ink ends.

    Returns [M, 2, 2 + K*K] factors of (x, y, K*K waves) in the outline's x and y, and [M] grey levels.
    """
    rng = np.random.default_rng(SEED)
    turn, shear, stretch = (rng.uniform(-limit, limit, count) for limit in (ROTATION, SHEAR, STRETCH))
    cos, sin, none = np.cos(turn), np.sin(turn), np.zeros(count)
    rotate = np.stack([cos, -sin, sin, cos], 1).reshape(-1, 2, 2)
    slant = np.stack([np.exp(stretch), shear, none, np.exp(-stretch)], 1).reshape(-1, 2, 2)
    linear = rotate @ slant / rng.uniform(*SCALE, (count, 1, 1))
    order = np.arange(1 + MODES)
    bend = rng.normal(0, BEND, (count, 2, 1 + MODES, 1 + MODES)) / (1 + order + order[:, None])
    bend[:, :, 0, 0] = rng.uniform(-SHIFT, SHIFT, (count, 2))  # the constant wave is a shift
    coefficients = np.concatenate([linear, bend.reshape(count, 2, -1)], 2)
    return torch.from_numpy(coefficients).float(), torch.from_numpy(rng.uniform(*INK, count)).float()
