"""CUB from an imitation of its official folder: three splits, one of them cut to bounding boxes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot.datasets import cub
from fewshot.datasets.base import ImageSet
from fewshot.datasets.class_lists import class_lists
from fewshot.datasets.cub import COUNTS, Cub
from fewshot.errors import InputError
from fewshot.pictures import JPEG

BIRDS = ("001.Albatross", "002.Auklet", "003.Blackbird", "004.Crow")
TOY = {
    "closerlook": {"train": [BIRDS[0], BIRDS[2]], "val": [BIRDS[1]], "test": [BIRDS[3]]},
    "feat": {"train": [BIRDS[0], BIRDS[3]], "val": [BIRDS[1]], "test": [BIRDS[2]]},
}


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cub, "COUNTS", {split: {"train": 4, "val": 2, "test": 2} for split in COUNTS})
    monkeypatch.setattr(cub, "class_lists", {"cub": TOY}.get)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of each bird: grey, and in the middle 10x10 pixels of the bird's own colour."""
    root = tmp_path / "CUB_200_2011"
    lines = []
    for i, name in enumerate([bird for bird in BIRDS for _ in range(2)]):
        image = np.full((30, 40, 3), 128, np.uint8)
        image[10:20, 15:25] = 20 * i
        lines.append(f"{i + 1} {name}/{name[4:]}_{i}.png")
        (root / "images" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "images" / lines[-1].split()[1])
    (root / "images.txt").write_text("\n".join(lines) + "\n")
    boxes = "".join(f"{i + 1} 15.0 10.0 10.0 10.0\n" for i in range(8))
    (root / "bounding_boxes.txt").write_text(boxes)
    return tmp_path


def load(folder: Path, **options: Any) -> ImageSet:
    options = {"size": 8, "stored_size": 10, "fit": "squash"} | options
    return Cub(data_dir=str(folder), cache_dir=str(folder / "cache"), **options).load()


def test_the_splits_are_apart_and_one_is_cut_to_the_boxes(folder: Path) -> None:
    closerlook, feat = load(folder), load(folder, split="feat")
    assert closerlook.class_names == [BIRDS[i] for i in (0, 2, 1, 3)]
    assert feat.class_names == [BIRDS[i] for i in (0, 3, 1, 2)]
    assert closerlook.splits == feat.splits == {"train": [0, 1], "val": [2], "test": [3], "trainval": [0, 1, 2]}
    assert (closerlook.images.shape, closerlook.image_shape) == ((8, 3, 10, 10), (3, 8, 8))
    assert closerlook.images[:, 0, 0, 0].tolist() == [128] * 8
    birds = torch.tensor([0, 1, 6, 7, 2, 3, 4, 5], dtype=torch.uint8) * 20
    assert torch.equal(feat.images, birds.view(-1, 1, 1, 1).expand(-1, 3, 10, 10))
    told = {"rotations": "none", "resize": "bilinear", "fit": "squash"}
    assert closerlook.protocol == told | {"split": "closerlook", "cropped_to": "nothing", "jpeg": JPEG}
    assert feat.protocol == told | {"split": "feat", "cropped_to": "bounding box", "jpeg": "whole"}
    assert closerlook.split_hash() != feat.split_hash()


def test_a_box_reaches_no_further_than_its_picture(folder: Path) -> None:
    boxes = folder / "CUB_200_2011" / "bounding_boxes.txt"
    boxes.write_text(boxes.read_text().replace("1 15.0 10.0 10.0", "1 -5.0 -3.0 100.0", 1))
    assert load(folder, split="feat").images[0, 0, 0, 0] == 128
    boxes.write_text(boxes.read_text().replace("1 -5.0", "1 60.0", 1))
    with pytest.raises(InputError, match=r"Albatross_0\.png: the box \(60\.0, .*has nothing of its 40x30 pixels"):
        load(folder, split="feat")


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'cub' is not in .*; put there the folder CUB_200_2011 \(images\.txt"):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"dataset\.split=fine is unknown; choose closerlook, feat or meta_dataset"):
        load(folder, split="fine")
    root = folder / "CUB_200_2011"
    listed = (root / "images.txt").read_text()
    for number in ("wide", "nan", "inf"):
        (root / "bounding_boxes.txt").write_text(f"1 2 3 4 {number}\n")
        with pytest.raises(InputError, match=rf"bounding_boxes\.txt: 2 3 4 {number} is no box; expected four numbers"):
            load(folder, split="feat")
    (root / "bounding_boxes.txt").write_text("1 2 3\n")
    with pytest.raises(InputError, match=r"bounding_boxes\.txt, line 1: 3 words, expected 5"):
        load(folder, split="feat")
    (root / "images.txt").write_text(listed.rpartition("8 ")[0])
    with pytest.raises(InputError, match=r"images\.txt: 1 images of split 'test', expected 2"):
        load(folder)
    (root / "images.txt").unlink()
    with pytest.raises(InputError, match=r"images\.txt cannot be read: .*dataset\.root needs the folder CUB_200_2011"):
        load(folder)


def test_the_published_lists() -> None:
    lists = class_lists("cub")
    assert set(lists) == set(COUNTS)
    for split, parts in lists.items():
        names = [name for own in parts.values() for name in own]
        assert len(names) == len(set(names)) == 200
        assert sum(COUNTS[split].values()) == 11788
    assert len(set(lists["feat"]["test"]) & set(lists["closerlook"]["train"])) == 23
