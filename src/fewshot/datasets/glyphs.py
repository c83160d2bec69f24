"""Letters and numerals of 15 alphabets, drawn from the typefaces that matplotlib ships: no download. Layer 1.

A class is a letter; its 20 drawings go round the faces that have it, each bent, turned, stretched, shifted
and inked anew, hard enough that comparing pixels goes wrong where a reader still sees the letter. Images are
[M, 1, size, size] uint8 with white ink (255) on black paper, which is how `omniglot` shows them.

Which letters: those that three or more faces draw. Latin A, Greek Alpha and Cyrillic A are one outline, and
many letters differ from another in weight or size alone, so each outline is a class once, in the alphabet
that `ALPHABETS` names first (`distinct`). Arabic letters have a class per form (isolated, initial, ...).
With `rotations: classes`, letters that are a turn of another (b and q, many syllabics) have a twin, as some
of Omniglot's have.
"""

import importlib.util
import math
import os
import unicodedata
from collections.abc import Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fewshot.datasets import cache
from fewshot.datasets.base import ImageSet, quarter_turns, rotated_classes
from fewshot.datasets.cache import Prepared
from fewshot.errors import FewshotError, InputError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

ROTATIONS = ("none", "task", "classes")
SIZES = (28, 32, 64, 84)
DRAWINGS = 20  # per class, as Omniglot has
MIN_CLASSES = 1200

# How a character's Unicode name begins -> its alphabet. The order settles who keeps an outline they share.
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
    "OLD ITALIC ": "Old_Italic",
    "CANADIAN SYLLABICS ": "Syllabics",
}
SPLITS = {
    "train": ("Digits", "Latin", "Cyrillic", "Lisu", "Syllabics"),
    "val": ("Greek", "Coptic", "Armenian", "Old_Italic"),
    "test": ("Asomtavruli", "Nuskhuri", "Mkhedruli", "Hebrew", "Arabic", "Lao"),
}
# The first has every letter of the others. Left out: italics (another letter's outline: Cyrillic te becomes
# m), the cm faces (not in Unicode order), LastResort (a placeholder for every character).
FACES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneral", "STIXGeneralBol"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
)
MIN_FACES = 3
MIN_EM = 0.4  # smaller glyphs are superscripts and points, whose outline is another's at a smaller size

# Two letters are one class when of either less than DISTINCT pixels of ink, of some 60 to 150, lie farther
# than TOLERANCE pixels from the other's, both drawn 20 pixels large at 28x28. Set by eye, on pairs at the limit.
TOLERANCE, DISTINCT = 1.5, 3.0

# Strength of the deformation. Set so that nearest class mean on raw pixels has about 60 % and a prototypical
# network after a minute of training more than 90 % on 5-way 1-shot episodes of the test alphabets.
SEED = 0
ROTATION, SHEAR, STRETCH, SHIFT = math.radians(13), 0.22, 0.14, 0.13  # +-; shift in half image widths
SCALE = (0.85, 1.1)
BEND, MODES = 0.085, 3  # elastic deformation: size in half image widths, waves per axis
INK, EDGE = (0.2, 0.5), 2.0  # grey level of the blurred outline where the ink ends (low: a broad stroke); contrast there


class Letter(NamedTuple):
    char: str
    group: str
    name: str
    faces: list[str]


class Glyphs:
    """The `glyphs` data set.

    cache_dir: folder of prepared arrays. split: `script`, the only one: no alphabet is in two splits.
    rotations: `none`, `task` (the sampler turns each class of a task) or `classes` (a turned class is a new one).
    size: pixels per side, one of SIZES; the classes are the same for all.
    """

    def __init__(
        self,
        *,
        cache_dir: str | os.PathLike[str],
        split: str = "script",
        rotations: str = "none",
        size: int = 28,
    ) -> None:
        _permitted("split", split, ("script",))
        _permitted("rotations", rotations, ROTATIONS)
        _permitted("size", size, SIZES)
        self.cache_dir, self.split, self.rotations, self.size = Path(cache_dir), split, rotations, size
        # Outlines come from matplotlib, their pixels from Pillow's FreeType: either may move a few of them.
        self.key = {"recipe": 1, "size": size, "matplotlib": version("matplotlib"), "pillow": version("pillow")}

    def load(self) -> ImageSet:
        """Open the prepared array; the first time, make it (some seconds)."""
        data = cache.prepared(self.cache_dir, "glyphs", self.key, lambda: build(self.size))
        images, offsets, names, groups = data
        splits = {s: [c for c, g in enumerate(groups) if g in SPLITS[s]] for s in SPLITS}
        splits["trainval"] = splits["train"] + splits["val"]
        if self.rotations != "none":
            images = quarter_turns(images)
        if self.rotations == "classes":
            offsets, names, groups, splits = rotated_classes(offsets, names, groups, splits)
        return ImageSet(
            name="glyphs",
            images=images,
            offsets=offsets,
            class_names=names,
            groups=groups,
            splits=splits,
            turns=4 if self.rotations == "task" else 1,
            protocol={
                "rotations": self.rotations,
                "resize": None,
                "inverted": False,
                "split": self.split,
                "typefaces": f"matplotlib {self.key['matplotlib']}",
            },
        )

    def verify(self) -> None:
        """Compare the prepared array with its recorded hash and count its classes; FewshotError if it is wrong."""
        if cache.verify(self.cache_dir, "glyphs", self.key) is None:
            raise FewshotError(
                f"data set 'glyphs' is not prepared at size {self.size} in {self.cache_dir}; "
                "prepare it: fewshot data prepare glyphs"
            )
        data = cache.prepared(self.cache_dir, "glyphs", self.key, lambda: build(self.size))
        classes, alphabets = len(data.class_names), len(set(data.groups))
        drawings = data.offsets.diff().unique().tolist()
        if classes < MIN_CLASSES or alphabets < len(set(ALPHABETS.values())) or drawings != [DRAWINGS]:
            raise FewshotError(
                f"data set 'glyphs' has {classes} classes of {drawings} drawings in {alphabets} alphabets; expected "
                f"{MIN_CLASSES} or more of {DRAWINGS} in {len(set(ALPHABETS.values()))}: "
                f"the typefaces of matplotlib {self.key['matplotlib']} differ; install another version"
            )


def build(size: int) -> Prepared:
    """Choose the letters, render each in its faces, and draw every class DRAWINGS times."""
    from PIL.ImageFont import Layout, truetype

    folder = typefaces()
    # Basic layout: the other needs a library that Pillow may lack, and shapes Arabic letters by context.
    fonts = {
        face: truetype(str(folder / f"{face}.ttf"), 2 * size, layout_engine=Layout.BASIC) for face in FACES
    }
    reference = truetype(str(folder / f"{FACES[0]}.ttf"), 64, layout_engine=Layout.BASIC)
    letters = distinct(candidates(folder), reference)
    sources: list[np.ndarray] = []
    source_of: list[int] = []
    classes: list[Letter] = []
    for letter in letters:
        images = [outline(fonts[face], letter.char, 2 * size, 1.5 * size, size / 28) for face in letter.faces]
        different = {image.tobytes(): image for image in images if image is not None}
        if len(different) >= MIN_FACES:
            source_of += [len(sources) + k % len(different) for k in range(DRAWINGS)]
            sources += different.values()
            classes.append(letter)
    return Prepared(
        draw(torch.from_numpy(np.stack(sources)), torch.tensor(source_of), size),
        torch.arange(len(classes) + 1) * DRAWINGS,
        [f"{letter.group}/{letter.name}" for letter in classes],
        [letter.group for letter in classes],
    )


def typefaces() -> Path:
    """matplotlib's folder of typefaces, found without importing matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise FewshotError("data set 'glyphs' needs matplotlib's typefaces; pip install matplotlib")
    return Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"


def candidates(folder: Path) -> list[Letter]:
    """Letters and digits with MIN_FACES or more faces, in the order of `ALPHABETS`, then of Unicode."""
    from fontTools.ttLib import TTFont  # matplotlib depends on it

    faces: dict[str, list[str]] = {}
    for face in FACES:
        for code in TTFont(folder / f"{face}.ttf", lazy=True).getBestCmap():
            faces.setdefault(chr(code), []).append(face)
    found: dict[str, list[Letter]] = {group: [] for group in ALPHABETS.values()}
    for char in sorted(c for c in faces if unicodedata.category(c) in ("Lu", "Ll", "Lo", "Nd")):
        full = unicodedata.name(char, "")
        prefix = next((p for p in ALPHABETS if full.startswith(p)), None)
        # Capitals in small and letters with two accents differ from others in too few pixels.
        if prefix and len(faces[char]) >= MIN_FACES and "SMALL CAPITAL" not in full and " AND " not in full:
            name = full.removeprefix(prefix).replace("LETTER ", "").lower()
            found[ALPHABETS[prefix]].append(Letter(char, ALPHABETS[prefix], name, faces[char]))
    return [letter for letters in found.values() for letter in letters]


def outline(font: "FreeTypeFont", char: str, canvas: int, side: float, blur: float) -> np.ndarray | None:
    """[canvas, canvas] uint8: the letter in the middle, its longer side `side` pixels; None if it is small or blank."""
    from PIL import Image, ImageFilter

    mask = font.getmask(char)
    image = Image.frombytes("L", mask.size, bytes(mask))
    box = image.getbbox()
    if box is None or max(box[2] - box[0], box[3] - box[1]) < MIN_EM * font.size:
        return None
    width, height = box[2] - box[0], box[3] - box[1]
    scale = side / max(width, height)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new("L", (canvas, canvas))
    fitted = image.resize(shape, Image.Resampling.BILINEAR, box)
    sheet.paste(fitted, ((canvas - shape[0]) // 2, (canvas - shape[1]) // 2))
    return np.asarray(sheet.filter(ImageFilter.GaussianBlur(blur)))


def distinct(letters: Sequence[Letter], font: "FreeTypeFont") -> list[Letter]:
    """The letters whose outline differs from that of every letter before them (see DISTINCT)."""
    drawn = [(letter, image) for letter in letters if (image := outline(font, letter.char, 28, 20, 0)) is not None]
    ink = torch.from_numpy(np.stack([image for _, image in drawn])).float() / 255  # [L, 28, 28]
    reach = math.ceil(TOLERANCE)
    padded, near = F.pad(ink, (reach,) * 4), ink
    for y, x in product(range(2 * reach + 1), repeat=2):
        if math.hypot(y - reach, x - reach) <= TOLERANCE:
            near = torch.maximum(near, padded[:, y : y + 28, x : x + 28])
    far = ink.flatten(1) @ (near < 0.25).float().flatten(1).T  # [L, L] ink of a row's letter far from a column's
    apart = torch.maximum(far, far.T)
    place = {letter.char: i for i, (letter, _) in enumerate(drawn)}
    kept: list[int] = []
    for i, (letter, _) in enumerate(drawn):
        capital = place.get(letter.char.upper(), i)
        # A small letter is drawn as large as its capital, so what is left between them is mostly weight.
        if (apart[i, kept] >= DISTINCT).all() and (capital == i or apart[i, capital] >= 2 * DISTINCT):
            kept.append(i)
    return [drawn[i][0] for i in kept]


def draw(sources: Tensor, source_of: Tensor, size: int) -> Tensor:
    """[S, H, H] uint8 blurred outlines, [M] which of them a drawing starts from -> [M, 1, size, size] uint8."""
    at = (torch.arange(size) + 0.5) / size
    wave = torch.stack([torch.cos(math.pi * k * at) for k in range(1 + MODES)])  # [K, size]
    waves = torch.einsum("ky,lx->klyx", wave, wave).reshape(-1, size * size)  # [K*K, size*size]
    x, y = (2 * at - 1).repeat(size), (2 * at - 1).repeat_interleave(size)
    basis = torch.cat([torch.stack([x, y]), waves])  # [2 + K*K, size*size]
    coefficients, ink_ends = deformations(len(source_of))
    images = []
    for rows in torch.arange(len(source_of)).split(1024):
        grid = (coefficients[rows] @ basis).view(-1, 2, size, size).permute(0, 2, 3, 1)
        grey = sources[source_of[rows], None].float() / 255
        drawn = F.grid_sample(grey, grid, align_corners=False)  # [B, 1, size, size]
        drawn = (drawn - ink_ends[rows, None, None, None]) * EDGE + 0.5
        images.append((drawn.clamp(0, 1) * 255).round().to(torch.uint8))
    return torch.cat(images)


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


def _permitted(key: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise InputError(f"{key}={value} of data set 'glyphs' is not one of: {', '.join(map(str, allowed))}")
