"""The embedded data set: distinct letters, disjoint scripts, the same drawings every time."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewshot.datasets import glyphs, typefaces
from fewshot.datasets.base import ImageSet
from fewshot.datasets.cache import Prepared, Write, cache_entry
from fewshot.datasets.glyphs import Glyphs
from fewshot.errors import FewshotError, InputError

LAO = {"LAO ": "Lao"}


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def data(cache_dir: str) -> ImageSet:
    return Glyphs(cache_dir=cache_dir).load()


@pytest.fixture(scope="session")
def letters() -> list[typefaces.Letter]:
    return typefaces.distinct_letters(glyphs.ALPHABETS)


@pytest.fixture(scope="session")
def lao() -> Prepared:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "ALPHABETS", LAO)
        return built(28)


def built(size: int) -> Prepared:
    pieces: list[torch.Tensor] = []
    classes = glyphs.build(size, pieces.append)
    return Prepared(torch.cat(pieces), *classes)


@pytest.fixture
def prepared(data: ImageSet, cache_dir: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The cache folder once it is filled; drawing again is a failure."""

    def build(size: int, write: Write) -> None:
        raise AssertionError(f"drawn again at size {size}")

    monkeypatch.setattr(glyphs, "build", build)
    return cache_dir


def test_twelve_hundred_letters_of_fourteen_alphabets_with_twenty_drawings_each(data: ImageSet) -> None:
    assert len(data.class_names) >= 1200
    assert len(set(data.groups)) == 14
    assert data.offsets.diff().unique().tolist() == [20]
    assert len(set(data.class_names)) == len(data.class_names)
    assert {"Latin/capital a", "Digits/seven", "Greek/capital omega", "Hebrew/alef"} <= set(data.class_names)
    assert all(name.startswith(f"{group}/") for name, group in zip(data.class_names, data.groups, strict=True))


def test_ink_is_white_on_black_paper_and_no_drawing_is_a_copy(data: ImageSet) -> None:
    assert data.image_shape == (1, 28, 28)
    rows = data.images.flatten(1)
    assert len(rows.unique(dim=0)) == len(rows)
    assert (rows.amax(1) > 200).all()
    assert (rows == 0).float().mean() > 0.5
    ink = rows.float().mean(1) / 255
    assert ink.min() > 0.01 and ink.max() < 0.7
    assert ((rows > 0) & (rows < 255)).any(), "edges are not grey"


def test_no_two_classes_share_an_outline(letters: list[typefaces.Letter]) -> None:
    outlines = [typefaces.outline(x.char, typefaces.FACES[0], sheet=28, side=20) for x in letters]
    images = torch.from_numpy(np.stack([image for image in outlines if image is not None]))
    assert len(images.unique(dim=0)) == len(letters) >= 1200
    chars = {letter.char for letter in letters}
    assert "A" in chars and not chars & {"Α", "А"}  # Greek Alpha and Cyrillic A look like the Latin A
    assert "S" in chars and "s" not in chars


def test_each_letter_has_three_faces_the_first_among_them(letters: list[typefaces.Letter]) -> None:
    assert min(len(letter.faces) for letter in letters) >= 3
    assert all(letter.faces[0] == typefaces.FACES[0] for letter in letters)


def test_an_outline_is_centred_at_its_size_and_none_where_there_is_no_ink() -> None:
    image = typefaces.outline("I", "DejaVuSans", sheet=28, side=20)
    assert image is not None
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    assert (rows[0], rows[-1]) == (4, 23)
    assert columns[0] + columns[-1] in (26, 27, 28)
    assert typefaces.outline(" ", "DejaVuSans", sheet=28, side=20) is None
    assert typefaces.outline(".", "DejaVuSans", sheet=28, side=20) is None


def test_splits_share_no_alphabet_and_cover_all(data: ImageSet) -> None:
    alphabets = {split: {data.groups[c] for c in data.splits[split]} for split in ("train", "val", "test")}
    assert sum(map(len, alphabets.values())) == 14 == len(set.union(*alphabets.values()))
    shares = [len(data.splits[split]) / len(data.class_names) for split in alphabets]
    assert shares == pytest.approx([0.65, 0.11, 0.24], abs=0.02)
    assert sorted(data.splits["trainval"]) == sorted([*data.splits["train"], *data.splits["val"]])
    sizes = Counter(data.groups[c] for c in data.splits["test"])
    assert min(sizes.values()) >= 20, "no 20-way episode within one of the test alphabets"


def test_drawn_twice_it_is_the_same(lao: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyphs, "ALPHABETS", LAO)
    again = built(28)
    assert torch.equal(again.images, lao.images)
    assert again.class_names == lao.class_names


def test_at_another_size_letters_and_bends_are_the_same(lao: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyphs, "ALPHABETS", LAO)
    large = built(56)
    assert large.images.shape == (*lao.images.shape[:2], 56, 56)
    assert large.class_names == lao.class_names
    shrunk = torch.nn.functional.avg_pool2d(large.images.float(), 2)
    assert (shrunk - lao.images.float()).abs().mean() < 0.04 * 255


def test_without_deformation_a_drawing_is_its_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    for strength in ("ROTATION", "SHEAR", "STRETCH", "SHIFT", "BEND"):
        monkeypatch.setattr(glyphs, strength, 0.0)
    monkeypatch.setattr(glyphs, "SCALE", (1.0, 1.0))
    monkeypatch.setattr(glyphs, "INK", (0.5, 0.5))
    source = torch.zeros(1, 56, 56, dtype=torch.uint8)
    source[0, 20:40, 10:30] = 255
    (drawn,) = glyphs.draw(source, torch.tensor([0]), 28)
    expected = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    expected[..., 10:20, 5:15] = 255
    assert torch.equal(drawn, expected)


def test_rotations_as_task_leave_images_and_classes(data: ImageSet, prepared: str) -> None:
    turned = Glyphs(cache_dir=prepared, rotations="task").load()
    assert torch.equal(turned.images, data.images)
    assert [str(t) for t in turned.transforms] == ["QuarterTurn(per=class)"]
    assert (turned.splits, turned.class_names) == (data.splits, data.class_names)


def test_rotations_as_classes_quadruple_the_classes_within_their_split(data: ImageSet, prepared: str) -> None:
    turned = Glyphs(cache_dir=prepared, rotations="classes").load()
    assert (turned.transforms, len(turned.class_names)) == ([], 4 * len(data.class_names))
    rows = len(data.images)
    for r in range(4):
        part = slice(r * rows, (r + 1) * rows, 97)
        assert torch.equal(turned.images[part], data.images[::97].rot90(r, (2, 3)))
    assert {split: len(ids) for split, ids in turned.splits.items()} == {
        split: 4 * len(ids) for split, ids in data.splits.items()
    }
    for split in ("train", "val", "test"):
        assert {turned.groups[c] for c in turned.splits[split]} == {data.groups[c] for c in data.splits[split]}


def test_the_protocol_says_how_the_images_were_made(data: ImageSet) -> None:
    expected = {"rotations": "none", "resize": None, "inverted": False, "split": "script"}
    assert {key: data.protocol[key] for key in expected} == expected
    assert data.protocol["typefaces"].startswith("matplotlib 3.")
    assert json.dumps(data.protocol)


def test_a_second_opening_draws_nothing(data: ImageSet, prepared: str) -> None:
    again = Glyphs(cache_dir=prepared).load()
    assert torch.equal(again.images, data.images)
    assert again.split_hash() == data.split_hash()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"split": "random"}, "dataset.split=random is unknown; choose script"),
        ({"rotations": "all"}, "dataset.rotations=all is unknown; choose none, task or classes"),
        ({"size": 29}, "dataset.size=29 is unknown; choose 28, 32, 64 or 84"),
    ],
)
def test_an_unknown_option_is_answered_with_those_there_are(option: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Glyphs(cache_dir="unused", **option)


def test_verify_counts_the_classes_of_an_intact_array(prepared: str, tmp_path: Path) -> None:
    assert "classes in 14 alphabets, [20] drawings each" in Glyphs(cache_dir=prepared).verify()
    assert Glyphs(cache_dir=str(tmp_path)).verify() == "glyphs: not prepared yet at size 28"


def test_verify_finds_a_changed_byte_and_missing_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(glyphs, "ALPHABETS", LAO)
        few = Glyphs(cache_dir=str(tmp_path))
        few.load()
    with pytest.raises(FewshotError, match=r"holds \d+ classes in 1 alphabets.*expected 1200 or more in 14"):
        few.verify()
    images = cache_entry(tmp_path, "glyphs", few._key()) / "images.bin"
    content = bytearray(images.read_bytes())
    content[1000] ^= 1
    images.write_bytes(content)
    with pytest.raises(FewshotError, match="is damaged"):
        few.verify()
