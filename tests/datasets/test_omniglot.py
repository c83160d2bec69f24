"""Omniglot: the published data in its published splits; for the bad cases, a toy of two alphabets."""

import dataclasses
import hashlib
import io
import os
import socket
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from fewshot.datasets import archive, cache, omniglot
from fewshot.datasets.base import ImageSet
from fewshot.datasets.omniglot import Omniglot
from fewshot.errors import FewshotError, InputError
from fewshot.sampler import EpisodeSampler
from fewshot.streams import MinibatchStream

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("FEWSHOT_DATA") or ROOT.parent / "shared" / "data")
FOUND = all(part.zip.find([DATA / folder for folder in omniglot.FOLDERS]) for part in omniglot.PARTS)
real = pytest.mark.skipif(not FOUND, reason="Omniglot is not in FEWSHOT_DATA, nor in ../shared/data")


# The published data.


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """load(**options) -> ImageSet of the published data, prepared once: rotations=task or classes only."""
    cache_dir = tmp_path_factory.mktemp("prepared")

    def load(rotations: str = "task", **options: Any) -> ImageSet:
        dirs = {"data_dir": str(DATA), "cache_dir": str(cache_dir), "download": False}
        return Omniglot(rotations=rotations, **dirs, **options).load()

    return load


@pytest.fixture(scope="session")
def names() -> list[str]:
    """The characters that the archives list."""
    paths = [part.zip.find([DATA / folder for folder in omniglot.FOLDERS]) for part in omniglot.PARTS]
    members = [[name for name in zipfile.ZipFile(path).namelist() if name.endswith(".png")] for path in paths if path]
    return [name for part in members for name in sorted({"/".join(member.split("/")[-3:-1]) for member in part})]


@pytest.fixture
def listed(names: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """listed(**options) -> the published data without its pictures, which take long to decode."""
    prepared = cache.Prepared(
        torch.zeros(20 * len(names), 1, 1, 1, dtype=torch.uint8), torch.arange(len(names) + 1) * 20, names,
        [name.split("/")[0] for name in names],
    )  # fmt: skip
    monkeypatch.setattr(cache, "prepared", lambda *_: prepared)
    return lambda **options: Omniglot(data_dir=str(DATA), cache_dir="", download=False, **options).load()


def sizes(data: ImageSet) -> dict[str, int]:
    return {name: len(ids) for name, ids in data.splits.items()}


def alphabets(data: ImageSet, split: str) -> set[str]:
    return {data.groups[c] for c in data.splits[split]}


@real
@pytest.mark.slow
def test_images_classes_and_groups(load: Any, names: list[str]) -> None:
    data = load()
    assert data.images.shape == (32460, 1, 28, 28)
    assert [str(t) for t in data.transforms] == ["QuarterTurn(per=class)"]
    assert data.images[::7].unique().tolist() == [0, 255]
    assert 0.05 < data.images[::7].float().mean().item() / 255 < 0.12  # ink is rare, and is what is 255
    assert data.offsets.tolist() == list(range(0, 32461, 20))
    assert len(set(data.class_names)) == 1623
    assert len(set(data.groups)) == 50
    assert data.class_names[0] == "Alphabet_of_the_Magi/character01"
    assert data.class_names[964] == "Angelic/character01"
    assert data.class_names == names
    assert all(name.startswith(f"{group}/character") for name, group in zip(data.class_names, data.groups, strict=True))
    assert data.protocol == {"rotations": "task", "resize": "nearest", "inverted": True, "split": "vinyals"}


@real
def test_vinyals_is_by_alphabet_but_for_gurmukhi(listed: Any) -> None:
    data = listed()
    assert sizes(data) == {"train": 1028, "val": 172, "test": 423, "trainval": 1200}
    assert sorted([*data.splits["trainval"], *data.splits["test"]]) == list(range(1623))
    assert sorted([*data.splits["train"], *data.splits["val"]]) == data.splits["trainval"]
    assert alphabets(data, "train") & alphabets(data, "test") == {"Gurmukhi"}
    assert not alphabets(data, "val") & (alphabets(data, "train") | alphabets(data, "test"))
    gurmukhi = [data.class_names[c] for c in data.splits["test"] if data.groups[c] == "Gurmukhi"]
    assert gurmukhi == [f"Gurmukhi/character{n}" for n in (42, 43, 44, 45)]


@real
def test_random_is_drawn_by_its_seed_alone(listed: Any) -> None:
    data = listed(split="random", split_seed=0)
    assert sizes(data) == {"train": 1100, "val": 100, "test": 423, "trainval": 1200}
    assert data.split_hash() == "28d6be634567"  # pinned: a seed means the same characters for ever
    assert data.split_hash() == listed(split="random").split_hash()
    assert data.split_hash() != listed(split="random", split_seed=1).split_hash()
    assert data.protocol["split_seed"] == 0
    assert len(alphabets(data, "test")) > 40


@real
def test_lake_keeps_the_evaluation_alphabets_for_the_test(listed: Any) -> None:
    data = listed(split="lake")
    assert sizes(data) == {"train": 883, "val": 81, "test": 659, "trainval": 964}
    assert [len(alphabets(data, split)) for split in ("train", "val", "test")] == [25, 5, 20]
    assert not alphabets(data, "trainval") & alphabets(data, "test")
    background = Counter(data.groups[c] for c in data.splits["trainval"])
    smallest = sorted(background.values())[:5]
    assert sorted(background[alphabet] for alphabet in alphabets(data, "val")) == smallest


@real
@pytest.mark.slow
def test_rotations_turn_images_and_give_classes(load: Any) -> None:
    task, classes = load(rotations="task"), load(rotations="classes")
    assert (len(task.images), len(classes.images), classes.transforms) == (32460, 4 * 32460, [])
    assert sizes(classes) == {"train": 4112, "val": 688, "test": 1692, "trainval": 4800}
    c, r = 1000, 3  # a class, turned by 270 degrees
    rows = slice(*classes.offsets[r * 1623 + c : r * 1623 + c + 2].tolist())
    assert torch.equal(classes.images[rows], torch.rot90(task.images[20000:20020], r, (-2, -1)))
    assert classes.class_names[r * 1623 + c] == f"{task.class_names[c]}@270"
    assert {classes.class_names[c].split("@")[0] for c in classes.splits["test"]} == {
        task.class_names[c] for c in task.splits["test"]
    }


def test_the_published_splits_of_any_data_are_disjoint_and_complete() -> None:
    names = [f"{alphabet}/character{n:02}" for alphabet in ("Greek", "Hebrew", "Oriya") for n in range(1, 5)]
    for split in omniglot.OPTIONS["split"]:
        parts = omniglot.make_splits(names, split, seed=3)
        assert sorted(parts["train"] + parts["val"] + parts["test"]) == list(range(12))


# What is really sampled: no test character is ever seen in training, in any rotation.

DRAWN = {"ways": 20, "shots": 5, "queries": 15}  # all twenty drawings of twenty characters


def upright(x: torch.Tensor) -> set[bytes]:
    """Each picture [M, 1, 28, 28] by its content, the same for its four quarter turns."""
    ink = (x[:, 0] > 0.5).numpy()
    turned = [np.packbits(np.rot90(ink, r, (1, 2)).reshape(len(ink), -1), axis=1) for r in range(4)]
    return {min(turn[i].tobytes() for turn in turned) for i in range(len(ink))}


def seen(data: ImageSet, split: str, *, seed: int) -> tuple[set[str], set[bytes]]:
    """Characters and pictures of 400 episodes of a stream, and of 60 mini-batches where it is a training split."""
    draws = EpisodeSampler(data, split, **DRAWN, seed=seed)
    batches = [draws.sample(20 * k, 20) for k in range(20)]
    classes = {c for batch in batches for c in batch.classes.flatten().tolist()}
    pictures = [torch.cat([batch.support_x, batch.query_x], 1).flatten(0, 1) for batch in batches]
    if split != "test":
        minibatches = MinibatchStream(data, split, batch_size=128, seed=seed)
        for k in range(60):
            batch = minibatches.batch(k)
            classes |= {data.splits[split][y] for y in batch.y.tolist()}
            pictures.append(batch.x)
    names = {data.class_names[c].split("@")[0] for c in classes}
    return names, set().union(*map(upright, pictures))


@real
@pytest.mark.slow
@pytest.mark.parametrize("rotations", ["classes", "task"])
@pytest.mark.parametrize(("split", "alike"), [("vinyals", 0), ("random", 1), ("lake", 1)])
def test_no_test_character_is_seen_in_training(load: Any, split: str, alike: int, rotations: str) -> None:
    """By name, and by the pictures themselves turned upright.

    alike: pictures that both sides may share. Two pairs of characters, plain strokes of different alphabets, have one
    28x28 picture in common; `vinyals` trains on all four, `random` and `lake` part one pair of them.
    """
    data = load(rotations, split=split)
    characters, pictures = seen(data, "test", seed=0)
    assert len(characters) > 0.9 * len({data.class_names[c].split("@")[0] for c in data.splits["test"]})
    for training in ("train", "trainval"):
        learned, looked_at = seen(data, training, seed=1)
        assert len(learned) > 0.9 * len({data.class_names[c].split("@")[0] for c in data.splits[training]})
        assert not learned & characters
        assert len(looked_at & pictures) <= alike
        assert len(looked_at) > 10_000


# Pixels.


def drawing(seed: int) -> Image.Image:
    """105x105, 1 bit, paper 1, with some ink (0)."""
    pixels = np.random.default_rng(seed).random((105, 105)) < 0.9
    return Image.fromarray(pixels)


def test_ink_is_255_unless_not_inverted() -> None:
    image = Image.new("1", (105, 105), 1)
    image.paste(0, (50, 50, 60, 60))
    for resize in ("nearest", "antialias"):
        inverted = omniglot.shrink(image, 28, resize, True)
        assert (inverted[0, 0], inverted[14, 14]) == (0, 255)
        assert np.array_equal(omniglot.shrink(image, 28, resize, False), 255 - inverted)
        assert omniglot.shrink(image, 105, resize, True).shape == (105, 105)


def test_pillow_resizes_one_bit_images_to_the_nearest_whatever_is_asked() -> None:
    image = drawing(0)
    ours = omniglot.shrink(image, 28, "nearest", False)
    for resample in Image.Resampling:
        assert np.array_equal(np.asarray(image.resize((28, 28), resample)) * 255, ours)


@pytest.mark.parametrize("size", [28, 32, 84])
def test_to_turn_and_then_resize_is_to_resize_and_then_turn(size: int) -> None:
    """The authors of prototypical networks turn the original; here the small image is turned."""
    image = drawing(1)
    for r in range(4):
        theirs = np.asarray(image.rotate(90 * r).resize((size, size))) * 255
        assert np.array_equal(theirs, np.rot90(omniglot.shrink(image, size, "nearest", False), r))


# Options.


def test_the_yaml_file_has_the_constructors_parameters_and_defaults() -> None:
    raw = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "dataset" / "omniglot.yaml"), resolve=False)
    assert isinstance(raw, dict)
    assert raw.pop("_target_") == f"{Omniglot.__module__}.Omniglot"
    fields = {field.name: field.default for field in dataclasses.fields(Omniglot)}
    assert list(raw) == list(fields)
    assert {k: v for k, v in raw.items() if not k.endswith("_dir")} == {
        k: v for k, v in fields.items() if not k.endswith("_dir")
    }


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"split": "vinyal"}, "dataset.split=vinyal is unknown; choose vinyals, random or lake"),
        ({"rotations": "all"}, "dataset.rotations=all is unknown; choose none, task or classes"),
        ({"resize": "bicubic"}, "dataset.resize=bicubic is unknown; choose nearest or antialias"),
        ({"size": 0}, "dataset.size=0 .* 1 to 105"),
        ({"size": 106}, "dataset.size=106 .* 1 to 105"),
    ],
)
def test_wrong_options_name_the_right_ones(option: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Omniglot(data_dir="", cache_dir="", **option)


# Raw data of all kinds: a toy of two alphabets, two characters with 20 drawings each.


def png(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def toy(part: str) -> dict[str, Image.Image]:
    alphabet = {"images_background": "Greek", "images_evaluation": "Oriya"}[part]
    return {
        f"{part}/{alphabet}/character{c:02}/{n:04}_{n:02}.png": drawing(100 * c + n)
        for c in (1, 2)
        for n in range(1, 21)
    }


def content(images: dict[str, Image.Image]) -> str:
    """The content hash, spelt with NumPy."""
    digest = hashlib.sha256()
    for name, image in sorted(images.items()):
        _, alphabet, character, _ = name.split("/")
        digest.update(f"{alphabet}/{character}\0".encode() + np.packbits(np.asarray(image), axis=1).tobytes())
    return digest.hexdigest()


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, bytes]]:
    """PNG files by archive; their zips lie in published/, from where they can be downloaded."""
    files, parts = {}, []
    for name in ("images_background", "images_evaluation"):
        images = toy(name)
        files[name] = {path: png(image) for path, image in images.items()}
        path = write_zip(tmp_path / "published" / f"{name}.zip", files[name])
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        published = archive.Published(path.as_uri(), path.stat().st_size, sha256)
        parts.append(omniglot.Part(published, characters=2, content=content(images)))
    monkeypatch.setattr(omniglot, "PARTS", tuple(parts))
    return files


def install(toys: dict[str, dict[str, bytes]], folder: Path) -> None:
    for name, files in toys.items():
        write_zip(folder / f"{name}.zip", files)


def dataset(tmp_path: Path, **options: Any) -> Omniglot:
    return Omniglot(data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"), **options)


def check_toy(data: ImageSet) -> None:
    assert data.class_names == [f"{a}/character{c:02}" for a in ("Greek", "Oriya") for c in (1, 2)]
    assert data.offsets.tolist() == [0, 20, 40, 60, 80]
    expected = omniglot.shrink(drawing(217), 28, "nearest", True)
    assert np.array_equal(data.images[36, 0].numpy(), expected)  # Greek, character 2, drawer 17


@pytest.mark.parametrize("folder", ["omniglot-py", "omniglot", ".", "Datensätze mit Leerzeichen/omniglot"])
@pytest.mark.parametrize("unpacked", [False, True])
def test_raw_data_is_found(tmp_path: Path, toys: dict[str, dict[str, bytes]], folder: str, unpacked: bool) -> None:
    install(toys, tmp_path / "data" / folder)
    if unpacked:
        for path in (tmp_path / "data").rglob("*.zip"):
            with zipfile.ZipFile(path) as file:
                file.extractall(path.parent)
            path.unlink()
    root = tmp_path / "data" / Path(folder).parent
    data = Omniglot(data_dir=str(root), cache_dir=str(tmp_path / "Größe"), download=False)
    check_toy(data.load())
    assert data.verify().count("holds its 2 characters") == 2


def test_content_decides_and_not_the_archive(tmp_path: Path, toys: dict[str, dict[str, bytes]]) -> None:
    """Packed anew on another system: another folder, another order, grey PNGs, macOS's additions."""
    for name in toys:
        files = {f"python/{path}": png(image.convert("L")) for path, image in reversed(toy(name).items())}
        hidden = {path.replace("/0001_", "/._0001_"): b"x" for path in files}
        write_zip(tmp_path / "data" / f"{name}.zip", hidden | files)
    check_toy(dataset(tmp_path).load())


def test_every_way_to_make_the_pixels_has_its_own_array(tmp_path: Path, toys: dict[str, dict[str, bytes]]) -> None:
    install(toys, tmp_path / "data")
    plain = dataset(tmp_path, rotations="none").load()
    assert (plain.transforms, plain.images.shape) == ([], (80, 1, 28, 28))
    assert torch.equal(dataset(tmp_path, rotations="task").load().images, plain.images)
    turned = dataset(tmp_path, rotations="classes").load()
    assert torch.equal(turned.images, torch.cat([plain.images.rot90(r, (2, 3)) for r in range(4)]))
    assert torch.equal(dataset(tmp_path, invert=False).load().images, 255 - plain.images)
    assert dataset(tmp_path, size=32).load().image_shape == (1, 32, 32)
    grey = dataset(tmp_path, rotations="none", resize="antialias").load()
    assert plain.images.unique().tolist() == [0, 255]
    assert len(grey.images.unique()) > 100
    assert grey.protocol == {"rotations": "none", "resize": "antialias", "inverted": True, "split": "vinyals"}
    assert len(list((tmp_path / "cache").glob("*/images.bin"))) == 5


def test_raw_data_is_needed_once(tmp_path: Path, toys: dict[str, dict[str, bytes]]) -> None:
    install(toys, tmp_path / "data")
    assert dataset(tmp_path).verify().endswith("not prepared yet")
    dataset(tmp_path).load()
    assert dataset(tmp_path).verify().endswith("is intact")
    for path in (tmp_path / "data").iterdir():
        path.unlink()
    check_toy(dataset(tmp_path, download=False).load())
    assert "no raw files in" in dataset(tmp_path).verify()


def test_download(tmp_path: Path, toys: dict[str, dict[str, bytes]]) -> None:
    with pytest.raises(InputError, match=r"^raw files are missing; put file.*images_background"):
        dataset(tmp_path, download=False).load()
    check_toy(dataset(tmp_path).load())
    assert sorted(path.name for path in (tmp_path / "data" / "omniglot-py").iterdir()) == [
        "images_background.zip",
        "images_evaluation.zip",
    ]


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{free.getsockname()[1]}"
    parts = [part._replace(zip=part.zip._replace(url=f"{host}/{Path(part.zip.url).name}")) for part in omniglot.PARTS]
    monkeypatch.setattr(omniglot, "PARTS", tuple(parts))
    with pytest.raises(InputError, match=r"cannot be downloaded .*refused") as caught:
        dataset(tmp_path).load()
    message = str(caught.value)
    for part in parts:
        assert f"{part.zip.url} ({part.zip.size} bytes, sha256 {part.zip.sha256})" in message
    assert f"into {tmp_path / 'data' / 'omniglot-py'}" in message
    assert "\n" not in message and caught.value.exit_code == 2
    assert not (tmp_path / "data").exists()


def test_a_download_with_another_hash_is_not_kept(tmp_path: Path, toys: dict[str, dict[str, bytes]]) -> None:
    path = tmp_path / "published" / "images_background.zip"
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"found sha256 \w{64}, expected \w{64}; nothing was kept\); put "):
        dataset(tmp_path).load()
    assert not list((tmp_path / "data").rglob("*.*"))


def test_data_dir_that_cannot_be_written(tmp_path: Path, toys: dict[str, dict[str, bytes]]) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(InputError, match=r"cannot write to .*omniglot-py: Not a directory.* or set data_dir"):
        dataset(tmp_path).load()


FIRST = "Greek/character01/0003_03.png"
SECOND = "Greek/character02/0001_01.png"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (png(drawing(1))[:300], "cannot be decoded"),
        (b"GIF89a and so on", "is not a PNG image"),
        (png(Image.new("1", (28, 28))), "has 28x28 pixels, expected 105x105"),
        (png(Image.new("1", (4000, 4000))), "has 4000x4000 pixels"),
    ],
)
def test_a_damaged_image_stops_preparation_and_is_listed_by_verify(
    tmp_path: Path, toys: dict[str, dict[str, bytes]], data: bytes, reason: str
) -> None:
    for name in (FIRST, SECOND):
        toys["images_background"][f"images_background/{name}"] = data
    toys["images_evaluation"]["images_evaluation/Oriya/character01/0001_01.png"] = b""
    install(toys, tmp_path / "data")
    with pytest.raises(InputError, match=rf"images_background\.zip: {FIRST} {reason}") as caught:
        dataset(tmp_path).load()
    assert SECOND not in str(caught.value)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    with pytest.raises(InputError, match=rf"2 damaged images: {FIRST} {reason}.*, {SECOND} {reason}") as caught:
        dataset(tmp_path).verify()
    assert "1 damaged images: Oriya/character01/0001_01.png is empty" in str(caught.value)


def test_other_content_is_refused_with_both_hashes(tmp_path: Path, toys: dict[str, dict[str, bytes]]) -> None:
    file = f"images_background/{FIRST}"
    original = toys["images_background"][file]
    image = drawing(103)
    image.putpixel((50, 50), 0 if image.getpixel((50, 50)) else 255)
    toys["images_background"][file] = png(image)
    install(toys, tmp_path / "data")
    message = r"found 40 images of 2 characters, content \w{64}; expected 40 of 2, content \w{64} \(\d+ bytes, "
    with pytest.raises(InputError, match=message + r"sha256 \w{64}\); delete it and run again, or replace it"):
        dataset(tmp_path).load()
    toys["images_background"][file] = original
    del toys["images_background"][f"images_background/{SECOND}"]
    install(toys, tmp_path / "data")
    for read in (dataset(tmp_path).load, dataset(tmp_path).verify):
        with pytest.raises(InputError, match="found 39 images of 2 characters"):
            read()


def test_a_truncated_archive_says_what_it_is_and_how_to_fetch_it(
    tmp_path: Path, toys: dict[str, dict[str, bytes]]
) -> None:
    install(toys, tmp_path / "data")
    path = tmp_path / "data" / "images_evaluation.zip"
    os.truncate(path, 5000)
    found = f"5000 bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    message = rf"not a whole zip archive .*\({found}\); delete it and run again, or replace it by file://.*sha256"
    for read in (dataset(tmp_path).load, dataset(tmp_path).verify):
        with pytest.raises(InputError, match=message):
            read()


def test_an_unsafe_archive_is_refused(tmp_path: Path, toys: dict[str, dict[str, bytes]]) -> None:
    toys["images_evaluation"]["../../evil.png"] = b"x"
    install(toys, tmp_path / "data")
    with pytest.raises(InputError, match=r"refused: member '\.\./\.\./evil\.png' points out of the archive"):
        dataset(tmp_path).load()


def test_a_damaged_prepared_array_is_found(tmp_path: Path, toys: dict[str, dict[str, bytes]]) -> None:
    install(toys, tmp_path / "data")
    dataset(tmp_path).load()
    (images,) = (tmp_path / "cache").glob("*/images.bin")
    data = bytearray(images.read_bytes())
    data[1000] ^= 1
    images.write_bytes(data)
    with pytest.raises(FewshotError, match=r"prepared array .* is damaged"):
        dataset(tmp_path).verify()
