"""CIFAR-FS and FC100: the published data in its published splits; every form of a toy with four images a class."""

import hashlib
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from fewshot.datasets import archive, cifar100
from fewshot.datasets.base import ImageSet
from fewshot.datasets.cifar100 import class_lists
from fewshot.datasets.cifar_fs import CifarFS
from fewshot.datasets.duplicates import duplicates
from fewshot.datasets.fc100 import FC100
from fewshot.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SUPERCLASSES = class_lists("cifar100_superclasses")
NAMES = sorted(name for names in SUPERCLASSES.values() for name in names)


# The published data.


@pytest.fixture(scope="session")
def sets(cifar100: str) -> dict[str, ImageSet]:
    cache_dir = os.environ["FEWSHOT_CACHE"]  # prepared once for all processes of the tests
    return {c.name: c(data_dir=cifar100, cache_dir=cache_dir, download=False).load() for c in (CifarFS, FC100)}


def test_each_class_has_its_six_hundred_images(sets: dict[str, ImageSet]) -> None:
    for data in sets.values():
        assert (data.images.shape, data.image_shape) == ((60000, 3, 32, 32), (3, 32, 32))
        assert data.offsets.tolist() == list(range(0, 60001, 600))
        assert data.class_names == NAMES


def test_mean_and_deviation_are_those_of_the_pixels(sets: dict[str, ImageSet]) -> None:
    """Of all images; those of the 50 000 training images are within 0.001 of them."""
    data = sets["cifar_fs"]
    pixels = data.images.permute(1, 0, 2, 3).flatten(1)[:, ::7].double() / 255
    assert pixels.mean(1).tolist() == pytest.approx(list(data.mean or ()), abs=1.5e-3)
    assert pixels.std(1).tolist() == pytest.approx(list(data.std or ()), abs=1.5e-3)


def test_pictures_that_occur_twice(sets: dict[str, ImageSet]) -> None:
    assert duplicates(sets["cifar_fs"]).groups == 26


# The splits, which are facts.


@pytest.mark.parametrize(("name", "sizes"), [("cifar_fs", (64, 16, 20)), ("fc100", (60, 20, 20))])
def test_splits_are_disjoint_and_complete(name: str, sizes: tuple[int, ...]) -> None:
    lists = class_lists(name)
    assert tuple(len(lists[split]) for split in ("train", "val", "test")) == sizes
    assert sorted(lists["train"] + lists["val"] + lists["test"]) == NAMES


def test_fc100_is_split_by_superclasses() -> None:
    group_of = {name: group for group, names in SUPERCLASSES.items() for name in names}
    groups = {split: {group_of[name] for name in names} for split, names in class_lists("fc100").items()}
    assert [len(groups[split]) for split in ("train", "val", "test")] == [12, 4, 4]
    assert len(set.union(*groups.values())) == 20


def test_some_classes_are_where_the_papers_have_them() -> None:
    assert {"baby", "bed", "worm"} <= set(class_lists("cifar_fs")["test"])
    assert {"beaver", "bee", "woman"} <= set(class_lists("fc100")["test"])


# The forms in which CIFAR-100 comes.


def toy(seed: int = 0) -> np.ndarray:
    """[100, 4, 3072]: of each class in alphabetical order."""
    return np.random.default_rng(seed).integers(0, 256, (100, 4, 3072), dtype=np.uint8)


def content(images: np.ndarray) -> str:
    digest = hashlib.sha256()
    for name, own in zip(NAMES, images, strict=True):
        digest.update(name.encode())
        for each in sorted(hashlib.sha256(image.tobytes()).digest() for image in own):
            digest.update(each)
    return digest.hexdigest()


def records(images: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [400, 3072] and labels [400] in an order of its own."""
    mixed = np.random.default_rng(order).permutation(400)
    return images.reshape(400, 3072)[mixed], np.arange(100).repeat(4)[mixed]


def binary(images: np.ndarray, order: int = 1) -> dict[str, bytes]:
    pixels, labels = records(images, order)
    rows = np.concatenate([np.zeros((400, 1), np.uint8), labels[:, None].astype(np.uint8), pixels], 1)
    parts = {"train.bin": rows[:300].tobytes(), "test.bin": rows[300:].tobytes()}
    return parts | {"fine_label_names.txt": "\n".join(NAMES).encode() + b"\n"}


def python(images: np.ndarray, order: int = 2) -> dict[str, bytes]:
    pixels, labels = records(images, order)
    parts = {
        name: pickle.dumps({b"data": pixels[rows], b"fine_labels": labels[rows].tolist()}, 2)
        for name, rows in (("train", slice(0, 300)), ("test", slice(300, 400)))
    }
    return parts | {"meta": pickle.dumps({b"fine_label_names": [name.encode() for name in NAMES]}, 2)}


def put(members: dict[str, bytes], folder: Path, name: str, *, packed: bool) -> Path:
    """As <folder>/<name>.tar.gz, or unpacked as <folder>/<name>/."""
    folder.mkdir(parents=True, exist_ok=True)
    if not packed:
        (folder / name).mkdir()
        for member, data in members.items():
            (folder / name / member).write_bytes(data)
        return folder / name
    with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as tar:
        for member, data in members.items():
            info = tarfile.TarInfo(f"{name}/{member}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return folder / f"{name}.tar.gz"


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    images = toy()
    monkeypatch.setattr(cifar100, "IMAGES", 4)
    monkeypatch.setattr(cifar100, "CONTENT", content(images))
    return images


def dataset(tmp_path: Path) -> CifarFS:
    return CifarFS(data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"), download=False)


@pytest.mark.parametrize("folder", ["cifar100", "."])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["binary", "python"])
def test_every_form_gives_the_same_array(
    tmp_path: Path, images: np.ndarray, form: str, packed: bool, folder: str
) -> None:
    members = {"binary": binary, "python": python}[form](images)
    put(members, tmp_path / "data" / folder, f"cifar-100-{form}", packed=packed)
    data = dataset(tmp_path).load()
    expected = [sorted(own, key=lambda image: hashlib.sha256(image.tobytes()).digest()) for own in images]
    assert torch.equal(data.images, torch.from_numpy(np.array(expected)).view(400, 3, 32, 32))
    assert data.class_names == NAMES
    assert data.groups[NAMES.index("whale")] == "aquatic_mammals"
    assert len(data.splits["trainval"]) == 80
    assert data.normalization == {"mean": [0.5071, 0.4865, 0.4409], "std": [0.2673, 0.2564, 0.2762]}
    assert json.dumps(data.protocol)
    said = dataset(tmp_path).verify()
    assert "holds CIFAR-100's 400 images; prepared array" in said and said.endswith("is intact")


def test_what_is_not_cifar100_is_refused(tmp_path: Path, images: np.ndarray) -> None:
    other = images.copy()
    other[3, 2, 100] ^= 1
    path = put(binary(other), tmp_path / "data", "cifar-100-binary", packed=True)
    with pytest.raises(InputError, match=r"found 400 images of 100 classes \(\[4\] each\), content \w+; expected 400"):
        dataset(tmp_path).load()
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"cifar-100-binary\.tar\.gz"):
        dataset(tmp_path).load()
    path.unlink()
    put({"readme": b"no"}, tmp_path / "data", "cifar-100-binary", packed=False)
    with pytest.raises(InputError, match=r"is not CIFAR-100: it has readme \(KeyError: .*replace it by https"):
        dataset(tmp_path).load()
    assert not list((tmp_path / "cache").glob("*/images.bin"))


def test_absent_data_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"put https://www\.cs\.toronto\.edu/.*\.tar\.gz .* into .*data/cifar100"):
        dataset(tmp_path).load()


def test_it_is_downloaded(tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(binary(images), tmp_path / "published", "cifar-100-binary", packed=True)
    published = archive.Published(path.as_uri(), path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(cifar100, "BINARY", published)
    data = FC100(data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache")).load()
    assert len(data.images) == 400
    assert (tmp_path / "data" / "cifar100" / "cifar-100-binary.tar.gz").exists()


@pytest.mark.parametrize("name", ["cifar_fs", "fc100"])
def test_the_yaml_file_names_the_options(name: str) -> None:
    options = OmegaConf.load(ROOT / "conf" / "dataset" / f"{name}.yaml")
    assert set(options) - {"_target_"} == {"data_dir", "cache_dir", "download"}
