"""Own pictures in class folders, in folders train, val and test, and in CSV files: the same images and splits."""

import io
import os
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rights import ordinary_user

from fewshot.datasets.base import ImageSet
from fewshot.datasets.class_splits import by_fractions
from fewshot.datasets.folder import Folder
from fewshot.errors import FewshotError, InputError
from fewshot.pictures import JPEG

SPLIT = {"train": ["a/b", "c"], "val": ["d"], "test": ["e/f/g"]}
NAMES = ["a/b", "c", "d", "e/f/g"]
LISTED = {"split": SPLIT}


def picture(path: Path, value: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((5, 7, 3), value, np.uint8)).save(path, **options)
    return path


def value(c: int, i: int) -> int:
    return 40 * c + 10 * i


def tree(root: Path, *, below: Mapping[str, Sequence[str]] | None = None, counts: Sequence[int] = (3, 2, 3, 1)) -> Path:
    """Class folders at unequal depth; below: split -> classes, to put them into folders of these names."""
    for c, name in enumerate(NAMES):
        part = next((part for part, names in (below or {}).items() if name in names), "")
        for i in range(counts[c]):
            picture(root / part / name / f"{i}.png", value(c, i))
    return root


def load(root: Path, **options: Any) -> ImageSet:
    return folder(root, **options).load()


def folder(there: Path, **options: Any) -> Folder:
    return Folder(**{"cache_dir": str(there.parent / "cache"), "size": 4, "root": str(there)} | options)


def as_csv(root: Path, *, split: bool, separator: str = ",") -> Path:
    """A file beside the pictures that names them all, as a spreadsheet would write it."""
    owner = {name: part for part, names in SPLIT.items() for name in names}
    lines = [["note", "label", "path", *(["split"] if split else [])]]
    for path in sorted((root).rglob("*.png")):
        name = path.relative_to(root).parent.as_posix()
        lines.append(["x", name, f"{root.name}/{path.relative_to(root)}", *([owner[name]] if split else [])])
    (file := root.parent / "list.csv").write_text("\n".join(map(separator.join, lines)), encoding="utf-8-sig")
    return file


@pytest.mark.parametrize("form", ["folders", "split folders", "valid", "csv", "csv with split"])
def test_every_form_gives_the_same_images(tmp_path: Path, form: str) -> None:
    root, options, how = tmp_path / "mine", {}, "given"
    if form == "split folders":
        tree(root, below=SPLIT)
    elif form == "valid":
        tree(root, below={{"val": "valid"}.get(part, part): names for part, names in SPLIT.items()})
    else:
        tree(root)
        if form.startswith("csv"):
            root = as_csv(root, split=form.endswith("split"), separator=";" if form == "csv" else ",")
        if not form.endswith("split"):
            options, how = LISTED, "lists"
    images = load(root, **options)
    assert images.name == root.stem
    assert images.class_names == NAMES
    assert images.groups == ["a", "", "", "e/f"]
    assert images.splits == {"train": [0, 1], "val": [2], "test": [3], "trainval": [0, 1, 2]}
    assert images.offsets.tolist() == [0, 3, 5, 8, 9]
    expected = torch.tensor([value(0, 0), 10, 20, 40, 50, 80, 90, 100, 120], dtype=torch.uint8)
    assert torch.equal(images.images, expected.view(-1, 1, 1, 1).expand(-1, 3, 5, 5))
    assert images.image_shape == (3, 4, 4)
    assert images.protocol | {"content": ""} == {
        "rotations": "none", "split": how, "resize": "bilinear", "fit": "crop", "at_least": 1, "left_out": 0,
        "content": "", "jpeg": JPEG,
    }  # fmt: skip
    assert len(images.protocol["content"]) == 12


def test_stored_size(tmp_path: Path) -> None:
    """Room for crops: 8/7 of the size, as 256 is of 224; or what is asked for."""
    root = tree(tmp_path / "mine")
    assert [Folder(root="", cache_dir="", size=size)._stored for size in (84, 224, 32, 7)] == [96, 256, 37, 8]
    assert load(root, stored_size=4).images.shape == (9, 3, 4, 4)
    with pytest.raises(InputError, match=r"dataset\.size=8, dataset\.stored_size=4; choose"):
        load(root, size=8, stored_size=4)


def test_fractions_are_rounded_by_largest_remainders() -> None:
    """And a seed draws other classes, whatever order they are given in."""
    names = [f"class {i}" for i in range(30)]
    split = by_fractions(names, [0.64, 0.16, 0.2], 0)
    assert {part: len(listed) for part, listed in split.items()} == {"train": 19, "val": 5, "test": 6}
    assert sorted(name for listed in split.values() for name in listed) == sorted(names)
    assert by_fractions(names[::-1], [0.64, 0.16, 0.2], 0) == split
    assert by_fractions(names, [0.64, 0.16, 0.2], 1) != split
    assert [len(n) for n in by_fractions(names[:10], [0, 0, 1], 0).values()] == [0, 0, 10]
    assert [len(n) for n in by_fractions(names[:10], [0.1, 0.2, 0.7], 0).values()] == [1, 2, 7]
    for wrong in ([0.5, 0.5], [0.5, 0.6, -0.1], [0.5, 0.2, 0.2]):
        with pytest.raises(InputError, match=r"dataset\.fractions=.*; expected three numbers"):
            by_fractions(names, wrong, 0)


def test_folders_that_share_classes_are_split_by_class(tmp_path: Path) -> None:
    """Pictures of a class, shared out among train/ and test/, come together."""
    root = tree(tmp_path / "mine", below={"train": NAMES})
    picture(root / "test" / "c" / "9.png", 200)
    with pytest.raises(InputError, match=r"1 classes are in more than one of train, val and test \(c\), and those of"):
        load(root)
    images = load(root, split="fractions", fractions=[0.5, 0.25, 0.25])
    assert images.class_names == NAMES
    assert images.offsets.diff().tolist() == [3, 3, 3, 1]
    assert [len(images.splits[part]) for part in SPLIT] == [2, 1, 1]
    assert images.protocol["fractions"] == [0.5, 0.25, 0.25]
    assert images.protocol["split_seed"] == 0


def test_classes_with_few_pictures_are_left_out_on_demand(tmp_path: Path) -> None:
    images = load(tree(tmp_path / "mine"), at_least=2, **LISTED)
    assert images.splits == {"train": [0, 1], "val": [2], "test": [], "trainval": [0, 1, 2]}
    assert "1 classes with fewer than 2 pictures left out (e/f/g)" in images.notes
    with pytest.raises(InputError, match=r"split 'test' of 'mine' has no classes; .*; give it some, or do without"):
        images.split("test")


def test_names_of_any_kind(tmp_path: Path) -> None:
    """A line break, bytes that are no text: what is printed of them is printable; other scripts stay as they are."""
    root = tmp_path / "mine"
    for name in (b"new\nline", b"\xff", "猫".encode(), b"a $5^_", "e\u0301".encode()):
        picture(root / os.fsdecode(name) / "0.png", len(name))
    picture(root / os.fsdecode(b"\xff") / "1\n.png", 1)
    images = load(root)
    assert images.class_names == ["\\udcff", "a $5^_", "new\\nline", "\u00e9", "猫"]
    assert images.notes[0] == "1 copies of other pictures left out (\\udcff/1\\n.png)"


def test_rights(tmp_path: Path) -> None:
    root = tree(tmp_path / "mine")
    (root / "c" / "0.png").chmod(0)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with (
        ordinary_user(tmp_path),
        pytest.raises(InputError, match=r"1 pictures .*c/0\.png cannot be read: Permission den"),
    ):
        load(root)


def test_a_changed_picture_gives_another_array(tmp_path: Path) -> None:
    """Of the same name and size; a folder that is moved keeps its array."""
    root = tree(tmp_path / "mine")
    for path in root.rglob("*.png"):  # all of one size
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    before = load(root, **LISTED)
    cached = sorted(tmp_path.glob("cache/*/images.bin"))
    root.rename(tmp_path / "moved")
    load(tmp_path / "moved", **LISTED)
    assert sorted(tmp_path.glob("cache/*/images.bin")) == cached
    path = tmp_path / "moved" / "c" / "0.bmp"
    about = path.stat()
    picture(path, 77)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    assert path.stat().st_size == about.st_size
    after = load(tmp_path / "moved", **LISTED)
    assert after.images[3].unique().tolist() == [77]
    assert after.protocol["content"] != before.protocol["content"]
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))  # as if it had never changed
    with pytest.raises(FewshotError, match=r"9 pictures of 4 classes tried, but .* holds other images; delete"):
        folder(tmp_path / "moved", **LISTED).verify()


def encoded(mode: str, colour: object, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (6, 6), colour).save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def test_files_as_people_have_them(tmp_path: Path) -> None:
    """CMYK, 16 bits, a palette, an animation, a picture turned by EXIF; what is left out is counted and named."""
    root = tree(tmp_path / "mine")
    odd, turned = root / "c", Image.Exif()
    turned[0x0112] = 6
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, :4] = 200
    Image.fromarray(wide).save(odd / "exif.png", exif=turned)
    (odd / "cmyk.TIF").write_bytes(encoded("CMYK", (0, 255, 255, 0), "TIFF"))
    (odd / "deep.png").write_bytes(encoded("I;16", 130 * 257, "PNG"))
    Image.new("RGB", (6, 6), (51, 204, 51)).convert("P").save(odd / "palette.png")
    frames = {"save_all": True, "append_images": [Image.new("L", (6, 6), 9)]}
    (odd / "moving.gif").write_bytes(encoded("L", 7, "GIF", **frames))
    Image.open(odd / "0.png").save(odd / "same.bmp")
    Image.open(odd / "0.png").save(root / "d" / "also.bmp")
    (odd / ".hidden.png").write_bytes(b"")
    (odd / "notes.txt").write_text("")
    (odd / "Thumbs.db").write_bytes(b"")
    broken = {"empty.png": b"", "text.jpg": b"no picture", "short.png": (odd / "exif.png").read_bytes()[:-30],
              "bomb.bmp": b"BM" + struct.pack("<IIIIIIHH24x", 0, 0, 54, 40, 60_000, 60_000, 1, 24)}  # fmt: skip
    for name, content in broken.items():
        (odd / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        load(root, **LISTED)
    said = str(raised.value)
    assert said.startswith("4 pictures cannot be used: ") and "\n" not in said
    assert all(name in said for name in broken)
    assert "bomb.bmp is too large: Image size (3600000000 pixels) exceeds limit" in said
    assert "text.jpg cannot be read: it is no picture" in said
    with pytest.raises(InputError, match=re.escape(said)):  # lists all, too
        folder(root, **LISTED).verify()

    skipping = folder(root, unreadable="skip", **LISTED)
    for images in (skipping.load(), skipping.load()):  # decoded, and from the cache
        assert images.offsets.diff().tolist() == [3, 7, 4, 1]
        assert images.protocol["left_out"] == 5
        of_class = dict(zip(["0", "1", "cmyk", "deep", "exif", "moving", "palette"], images.images[3:10], strict=True))
        assert of_class["cmyk"][:, 0, 0].tolist() == [255, 0, 0]
        assert of_class["deep"].unique().tolist() == [130]
        assert of_class["palette"][:, 0, 0].tolist() == [51, 204, 51]
        assert of_class["moving"].unique().tolist() == [7]
        upright = of_class["exif"][0].float()  # the left half is the upper one now
        assert upright[0].min() > 150 and upright[-1].max() < 50
        assert images.notes[:2] == [
            "2 hidden files left out (.hidden.png, Thumbs.db)", "1 files that are no pictures left out (notes.txt)"
        ]  # fmt: skip
        assert images.notes[2].startswith("4 pictures cannot be used and are left out: ")
        assert images.notes[3:5] == [
            "1 copies of other pictures left out (c/same.bmp)",
            "1 pictures are in c and in d, the same pixels; nothing can tell them apart",
        ]
    assert re.search(r"20 pictures of 4 classes tried; prepared array .* is intact", skipping.verify())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": None}, r"dataset=folder needs dataset\.root=DIR, a folder with a folder of pictures for each class"),
        ({"root": "nowhere"}, r"nowhere does not exist"),
        ({"root": "empty"}, r"no pictures below .*empty$"),
        ({"root": "mine/c"}, r"2 pictures lie in .*mine/c itself \(0\.png, \.\.\.\); put each into a folder named"),
        ({"root": "mine/e"}, r"mine/e has one class, f/g; two are needed to tell apart"),
        ({"root": "kaggle"}, r"kaggle: pictures lie in test itself; put each into a folder named after its class"),
        ({"root": "mixed"}, r"mixed has class folders in train, but pictures in more, too; put all class folders"),
        ({"root": "bare"}, r"bare: pictures lie in test, train itself; put each into a folder named after its class"),
        ({"size": 0}, r"dataset\.size=0, dataset\.stored_size=0; choose a size of 1 or more"),
        ({"size": 9000}, r"images of 10286x10286 pixels; choose a size from 1 to 8192"),
        ({"fit": "stretch"}, r"fit=stretch is unknown; choose crop or squash"),
        ({"unreadable": "ask"}, r"dataset\.unreadable=ask is unknown; choose error or skip"),
        ({"split": "random"}, r"dataset\.split=random is unknown; choose fractions, null, or lists of classes"),
        ({"split": ["c"]}, r"dataset\.split=\['c'\] is unknown; choose fractions, null, or lists of classes"),
        ({"split": {"train": "c"}}, r"dataset\.split: 'train' is no list of classes for one of train, val, test"),
        ({"split": {"all": ["c"]}}, r"dataset\.split: 'all' is no list of classes for one of train, val, test"),
        ({"split": {"train": ["e/f"]}}, r"dataset\.split\.train has 'e/f', which is no class; did you mean e/f/g\?"),
        ({"split": {"train": ["c"], "val": ["c"]}}, r"dataset\.split has class 'c' in train and in val; list it once"),
        ({"root": "a.csv"}, r"a\.csv cannot be read: No such file"),
        ({"root": "b.csv"}, r"b\.csv has no column label; its first line is: path,name"),
        ({"root": "c.csv"}, r"c\.csv: 2 lines lack a path or a label \(line 2, 4\)"),
        ({"root": "d.csv"}, r"d\.csv, line 2: 'dev' is no split; expected train, val, test"),
        ({"root": "h.csv"}, r"h\.csv, line \d+: field larger than field limit"),
        ({"root": "e.csv"}, r"e\.csv has no lines below its first; each is to be path,label"),
        ({"root": "f.csv"}, r"f\.csv has one class, c; two are needed"),
        ({"root": "g.csv"}, r"1 pictures cannot be used: .*mine/gone\.png cannot be read: No such file"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_refused_in_one_line(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    tree(tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    for name in (
        "kaggle/train/a/0.png",
        "kaggle/test/0.png",
        "mixed/train/a/0.png",
        "mixed/more/b/0.png",
        "bare/train/0.png",
        "bare/test/0.png",
    ):
        picture(tmp_path / name, 9)
    for name, text in {
        "b": "path,name\nx,y", "c": "path,label\n,c\nmine/c/0.png,c\nmine/c/1.png,", "d": "path,label,split\nx,y,dev",
        "e": "path,label\n", "h": 'path,label\nx,"y' + 40 * f"\n{4000 * 'z'}",
        "f": "path,label\nmine/c/0.png,c", "g": "path\tlabel\nmine/c/0.png\tc\nmine/gone.png\td",
    }.items():  # fmt: skip
        (tmp_path / f"{name}.csv").write_text(text)
    root = options.get("root", "mine")
    with pytest.raises(InputError, match=message) as raised:
        folder(tmp_path / "mine", **options | {"root": str(tmp_path / root) if root else None}).load()
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)
