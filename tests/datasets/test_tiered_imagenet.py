"""tieredImageNet from ImageNet's folders and from the arrays that used to go round: the same images."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot.datasets import tiered_imagenet
from fewshot.datasets import tiered_imagenet_arrays as arrays
from fewshot.datasets.base import ImageSet
from fewshot.datasets.class_lists import class_lists
from fewshot.datasets.tiered_imagenet import TieredImagenet
from fewshot.errors import InputError
from fewshot.pictures import JPEG

TOY = {"train": {"bird": ["n01", "n02"]}, "val": {"dog": ["n03"]}, "test": {"fish": ["n04"]}}
SIZES = {"n01": 2, "n02": 3, "n03": 2, "n04": 1}
TOTALS = {"train": 5, "val": 2, "test": 1}


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiered_imagenet, "IMAGES", TOTALS)
    monkeypatch.setattr(tiered_imagenet, "class_lists", {"tiered_imagenet": TOY}.get)


def colour(name: str, i: int) -> list[int]:
    """Red, green, blue."""
    return [60 * int(name[1:]), 10 * i, 200]


def pixels(split: str) -> list[tuple[str, np.ndarray]]:
    names = [name for own in TOY[split].values() for name in own]
    return [(name, np.full((84, 84, 3), colour(name, i), np.uint8)) for name in names for i in range(SIZES[name])]


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def imagenet(root: Path) -> None:
    for split in TOY:
        for i, (name, image) in enumerate(pixels(split)):
            (root / "train" / name).mkdir(parents=True, exist_ok=True)
            (root / "train" / name / f"{name}_{i}.JPEG").write_bytes(png(image))
    (root / "val" / "n01").mkdir(parents=True)
    (root / "val" / "n01" / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"not looked at")


def as_arrays(root: Path, form: str, *, mixed: bool = False) -> None:
    """form: png (Ren) | npz (labels as MetaOptNet's authors have them). mixed: not class by class."""
    root.mkdir()
    for split in TOY:
        rows = pixels(split)
        rows = rows[::2] + rows[1::2] if mixed else rows
        names = sorted({name for name, _ in rows})
        labels = [names.index(name) for name, _ in rows]
        content: dict[Any, Any] = {b"labels": [7 + label for label in labels]}
        if form == "png":
            found = [np.frombuffer(png(image), np.uint8)[:, None] for _, image in rows]
            (root / f"{split}_images_png.pkl").write_bytes(pickle.dumps(found, protocol=2))
            content = {"label_specific": np.array(labels), "label_specific_str": names}
            content |= {"label_general": np.zeros(len(rows), np.int64), "label_general_str": list(TOY[split])}
        else:
            np.savez(root / f"{split}_images.npz", images=np.stack([image[..., ::-1] for _, image in rows]))
        (root / f"{split}_labels.pkl").write_bytes(pickle.dumps(content, protocol=2))


def load(folder: Path, **options: Any) -> ImageSet:
    return TieredImagenet(data_dir=str(folder), cache_dir=str(folder / "cache"), **{"size": 4, **options}).load()


@pytest.mark.parametrize("form", ["ImageNet", "png", "npz", "npz mixed"])
def test_every_form_gives_the_same_images(tmp_path: Path, form: str) -> None:
    root = tmp_path / "tiered_imagenet"
    if form == "ImageNet":
        imagenet(root)
    else:
        as_arrays(root, form[:3], mixed=form.endswith("mixed"))
    images = load(tmp_path)
    assert images.splits == {"train": [0, 1], "val": [2], "test": [3], "trainval": [0, 1, 2]}
    assert images.offsets.tolist() == [0, 2, 5, 7, 8]
    expected = torch.tensor([colour(name, i) for name, size in SIZES.items() for i in range(size)], dtype=torch.uint8)
    found = images.images[..., 0, 0]
    if form.endswith("mixed"):  # within a class in the order of the file
        expected, found = (t[torch.tensor([0, 1, *(2 + t[2:5, 1].argsort()), 5, 6, 7])] for t in (expected, found))
    assert torch.equal(found, expected)
    assert images.class_names == {"ImageNet": ["n01", "n02", "n03", "n04"],
        "png": ["n01 (train 0)", "n02 (train 1)", "n03 (val 0)", "n04 (test 0)"],
        "npz": ["train 7", "train 8", "val 7", "test 7"]}[form.split()[0]]  # fmt: skip
    assert images.groups == (["bird", "bird", "dog", "fish"] if form in ("ImageNet", "png") else [""] * 4)
    told = {"rotations": "none", "split": "ren", "resize": "bilinear", "fit": "crop", "jpeg": JPEG}
    assert images.protocol == told


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'tiered_imagenet' is not in .*; put there ImageNet's class folders"):
        load(tmp_path)
    root = tmp_path / "imagenet"
    imagenet(root)
    assert "has 8 files of 4 classes; not prepared" in TieredImagenet(data_dir=str(tmp_path), cache_dir="no").verify()
    (root / "train" / "n02" / "n02_3.JPEG").unlink()
    with pytest.raises(InputError, match=r"imagenet: 4 images of split 'train', expected 5; .*unreadable=skip"):
        load(tmp_path)
    assert load(tmp_path, unreadable="skip").protocol["unreadable"] == 1
    (root / "train" / "n03").rename(root / "other")
    with pytest.raises(InputError, match=r"1 classes of split 'val' are not there \(n03, \.\.\.\)"):
        load(tmp_path, unreadable="skip")


def test_arrays_that_are_not_the_data_set(tmp_path: Path) -> None:
    root = tmp_path / "tiered_imagenet"
    as_arrays(root, "npz")
    np.savez(root / "val_images.npz", images=np.zeros((2, 84, 84), np.uint8))
    with pytest.raises(InputError, match=r"val_images\.npz cannot be read: it has images \[2, 84, 84\] uint8"):
        load(tmp_path)
    (root / "val_labels.pkl").write_bytes(pickle.dumps({"labels": [1, 2]}))
    with pytest.raises(InputError, match=r"val_labels\.pkl: 2 classes, expected 1 of 'val'"):
        load(tmp_path)
    (root / "val_labels.pkl").write_bytes(pickle.dumps({"label": []}))
    with pytest.raises(InputError, match=r"val_labels\.pkl has no labels of tieredImageNet: KeyError: 'labels'"):
        load(tmp_path)
    (root / "train_images.npz").rename(root / "train_images.zip")
    assert arrays.find(root) == []


def test_the_published_lists() -> None:
    lists = class_lists("tiered_imagenet")
    names = {split: [name for own in groups.values() for name in own] for split, groups in lists.items()}
    assert {split: (len(lists[split]), len(own)) for split, own in names.items()} == {
        "train": (20, 351),
        "val": (6, 97),
        "test": (8, 160),
    }
    assert len({name for own in names.values() for name in own}) == 608
