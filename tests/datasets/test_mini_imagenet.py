"""miniImageNet from class folders and from CSV files: the same images, split by the class lists alone."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot.datasets import mini_imagenet, mini_imagenet_pickles
from fewshot.datasets.base import ImageSet
from fewshot.datasets.class_lists import class_lists
from fewshot.datasets.mini_imagenet import MiniImagenet
from fewshot.errors import InputError
from fewshot.pictures import JPEG

TOY = {"train": ["n01", "n02"], "val": ["n03"], "test": ["n04"]}
NAMES = [name for names in TOY.values() for name in names]


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four classes of three images."""
    monkeypatch.setattr(mini_imagenet, "IMAGES", 3)
    chosen = {name: [10, 2, 7] for name in NAMES}
    monkeypatch.setattr(mini_imagenet, "class_lists", {"mini_imagenet": TOY, "mini_imagenet_files": chosen}.get)


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((5, 7, 3), value, np.uint8)).save(path)


def value(c: int, i: int) -> int:
    return 40 * c + 10 * i


def class_folders(root: Path, *, below: bool = False) -> None:
    """below: as they are often split by image, into train/ and val/."""
    for c, name in enumerate(NAMES):
        for i in range(3):
            part = ("train" if i < 2 else "val") if below else ""
            picture(root / part / name / f"{name}_{i}.png", value(c, i))
    picture(root / "n99" / "other.png", 1)  # a class of ImageNet's that is not in the lists


def imagenet(root: Path) -> None:
    """ImageNet's own folders: more images than Ravi chose, and those of its validation beside them."""
    for c, name in enumerate([*NAMES, "n98"]):
        for i, number in enumerate((10, 2, 7)):
            picture(root / "train" / name / f"{name}_{number}.JPEG", value(c, i))
        picture(root / "train" / name / f"{name}_3.JPEG", 255)
        picture(root / "val" / name / "ILSVRC2012_val_00000001.JPEG", 255)


def csv_files(root: Path) -> None:
    for split, names in TOY.items():
        lines = ["filename,label"]
        for name in names:
            for i in range(3):
                picture(root / "images" / f"{name}_{i}.png", value(NAMES.index(name), i))
                lines.append(f"{name}_{i}.png,{name}")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")


def pickled(root: Path, form: int, *, short: str = "") -> None:
    """short: a class that lacks an image."""
    for path, names in zip(mini_imagenet_pickles.FORMS[form], TOY.values(), strict=True):
        images = [(n, np.full((4, 4, 3), value(NAMES.index(n), i), np.uint8)) for i in range(3) for n in names]
        images = images[1:] if short in names else images
        of_class = [n for n, _ in images]
        array = np.stack([image for _, image in images])
        content = (
            {"image_data": array, "class_dict": {n: [i for i, m in enumerate(of_class) if m == n] for n in names}}
            if form == 0
            else {b"data": array, b"labels": [names.index(n) for n in of_class],
                  b"catname2label": {n.encode(): c for c, n in enumerate(names)}}
        )  # fmt: skip
        root.mkdir(exist_ok=True)
        (root / path).write_bytes(pickle.dumps(content, protocol=2))


def load(folder: Path, **options: object) -> ImageSet:
    options = {"size": 4} | options
    return MiniImagenet(data_dir=str(folder), cache_dir=str(folder / "cache"), **options).load()  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["class folders", "class folders below", "ImageNet", "csv", "pickles 0", "pickles 1"])
def test_every_form_gives_the_same_images(tmp_path: Path, form: str) -> None:
    root = tmp_path / "mini_imagenet"
    if form.startswith("pickles"):
        pickled(root, int(form[-1]))
    elif form == "csv":
        csv_files(root)
    elif form == "ImageNet":
        imagenet(root)
    else:
        class_folders(root, below=form.endswith("below"))
    images = load(tmp_path)
    assert images.class_names == NAMES
    assert images.splits == {"train": [0, 1], "val": [2], "test": [3], "trainval": [0, 1, 2]}
    assert images.offsets.tolist() == [0, 3, 6, 9, 12]
    expected = torch.tensor([value(c, i) for c in range(4) for i in range(3)], dtype=torch.uint8)
    assert torch.equal(images.images, expected.view(-1, 1, 1, 1).expand(-1, 3, 4, 4))
    told = {"rotations": "none", "split": "ravi", "resize": "bilinear", "fit": "crop", "jpeg": JPEG}
    assert images.protocol == told


def test_skipped_files_are_in_the_protocol(tmp_path: Path) -> None:
    root = tmp_path / "elsewhere"
    class_folders(root)
    (root / "n02" / "n02_1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"1 pictures cannot be used: .*n02_1\.png cannot be read: it is empty"):
        load(tmp_path, root=str(root))
    images = load(tmp_path, root=str(root), unreadable="skip")
    assert images.offsets.tolist() == [0, 3, 5, 8, 11]
    assert images.protocol["unreadable"] == 1


def test_verify_says_what_is_there(tmp_path: Path) -> None:
    class_folders(tmp_path / "miniImageNet")
    data = MiniImagenet(data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"), size=4)
    assert data.verify().endswith("has 3 files of each of 4 classes; not prepared yet")
    data.load()
    assert data.verify().endswith("is intact")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"'mini_imagenet' is not in .* as mini_imagenet, .*; put there its class folders"
    ):
        load(tmp_path)
    class_folders(tmp_path / "mini_imagenet")
    (tmp_path / "mini_imagenet" / "n03" / "n03_1.png").unlink()
    with pytest.raises(InputError, match="class n03 has 2 files, expected 3; miniImageNet has 3 of each of 4 classes"):
        load(tmp_path)
    (tmp_path / "mini_imagenet" / "train.csv").write_text("name,label\na,b\n")
    with pytest.raises(InputError, match=re.escape("train.csv cannot be read: it has no column 'filename'; expected")):
        load(tmp_path)
    with pytest.raises(InputError, match=r"dataset\.size=0, stored_size=None of 'mini_imagenet'"):
        load(tmp_path, size=0)


def test_pickles_that_are_not_the_data_set(tmp_path: Path) -> None:
    root = tmp_path / "mini_imagenet"
    pickled(root, 0, short="n03")
    with pytest.raises(InputError, match=r"cache-val\.pkl: class n03 has 2 images, expected 3"):
        load(tmp_path)
    path = root / mini_imagenet_pickles.FORMS[0][0]
    for content, reason in (
        ({"images": 1}, "is no pickle of miniImageNet: KeyError: 'data'"),
        ({"image_data": np.zeros((2, 2), np.uint8), "class_dict": {}}, r"ValueError: its images are \[2, 2\] uint8"),
        (
            {"image_data": np.zeros((2, 4, 4, 3), np.uint8), "class_dict": {"n01": [0, 2]}},
            r"rows that are not in 0 to 1",
        ),
        (Path("x"), "is not a pickle of arrays alone, or is damaged: it names pathlib"),
    ):
        path.write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(InputError, match=reason):
            load(tmp_path)


def test_the_published_lists() -> None:
    """64, 16 and 20 different classes."""
    lists, chosen = class_lists("mini_imagenet"), class_lists("mini_imagenet_files")
    assert {split: len(names) for split, names in lists.items()} == {"train": 64, "val": 16, "test": 20}
    names = [name for listed in lists.values() for name in listed]
    assert len(set(names)) == 100
    assert all(re.fullmatch(r"n\d{8}", name) for name in names)
    assert names == list(chosen)
    assert {len(set(numbers)) for numbers in chosen.values()} == {600}


def test_larger_pictures_can_be_kept_for_crops(tmp_path: Path) -> None:
    class_folders(tmp_path / "mini_imagenet")
    images = load(tmp_path, stored_size=5)
    assert (images.images.shape, images.image_shape) == ((12, 3, 5, 5), (3, 4, 4))
    with pytest.raises(InputError, match=r"dataset\.size=6, stored_size=5 of 'mini_imagenet'"):
        load(tmp_path, size=6, stored_size=5)
