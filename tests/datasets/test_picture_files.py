"""Files of classes become the rows of an array: in order, chunk by chunk, with what cannot be read named."""

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fewshot.copies import Copies
from fewshot.datasets import cache, picture_files
from fewshot.datasets.picture_files import write_pictures
from fewshot.errors import InputError
from fewshot.pictures import Box, Pictures
from fewshot.signals import Stopped, StopSignal

SMALL = Pictures(image_shape=(3, 2, 2), side=2)
COUNTS = {"a": 5, "b": 1, "c": 20}


def class_files(folder: Path, counts: dict[str, int] = COUNTS) -> dict[str, list[Path]]:
    """Each picture is grey, of the value of its place."""
    files: dict[str, list[Path]] = {}
    value = 0
    for name, count in counts.items():
        (folder / name).mkdir()
        for i in range(count):
            path = folder / name / f"{i:02}.png"
            Image.new("L", (3, 4), value).save(path)
            files.setdefault(name, []).append(path)
            value += 1
    return files


def written(files: dict[str, list[Path]], **options: str) -> tuple[list[int], Tensor, list[int]]:
    """Offsets, images and the number of rows of each write."""
    parts: list[Tensor] = []
    offsets = write_pictures(lambda images: parts.append(images.clone()), files, SMALL, **options).offsets
    return offsets.tolist(), torch.cat(parts), [len(part) for part in parts]


@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_rows_are_in_the_order_of_classes_and_files(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_files, "CHUNK", rows * 12)
    offsets, images, sizes = written(class_files(tmp_path))
    assert offsets == [0, 5, 6, 26]
    assert torch.equal(images, torch.arange(26, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2))
    assert max(sizes) == min(rows, 26)


def test_unreadable_files_are_an_error_that_names_all(tmp_path: Path) -> None:
    files = class_files(tmp_path)
    files["a"][1].write_bytes(b"")
    files["c"][19].write_text("no picture")
    with pytest.raises(InputError, match=r"^2 pictures cannot be used: .*a/01\.png cannot be read: it is empty; "
                       r".*c/19\.png cannot be read: it is no picture; remove or replace them, or set "
                       r"dataset\.unreadable=skip$"):  # fmt: skip
        written(files)


def test_only_so_many_are_named(tmp_path: Path) -> None:
    files = class_files(tmp_path)
    for path in files["c"][:12]:
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"^12 pictures cannot .*c/09\.png cannot be read: it is empty; and 2 more; "):
        written(files)


def test_skip_leaves_them_out_and_says_how_many(tmp_path: Path) -> None:
    files = class_files(tmp_path)
    files["a"][1].write_bytes(b"")
    files["c"][0].write_bytes(b"")
    offsets, images, _ = written(files, unreadable="skip")
    assert offsets == [0, 4, 5, 24]
    assert images[:, 0, 0, 0].tolist() == [i for i in range(26) if i not in (1, 6)]
    (note,) = write_pictures(lambda images: None, files, SMALL, unreadable="skip").notes
    assert re.match(r"2 pictures cannot be used and are left out: .*a/01\.png cannot be read: it is empty; ", note)


def test_copies_are_left_out_of_a_class_and_named(tmp_path: Path) -> None:
    """The pixels that are stored count, whatever the file; the same picture in two classes stays in both."""
    files = class_files(tmp_path, {"a": 3, "b": 2})
    Image.new("RGB", (9, 9), (1, 1, 1)).save(copy := tmp_path / "a" / "copy.bmp")
    files["a"].append(copy)
    Image.new("L", (3, 4), 1).save(files["b"][0])
    rows: list[Tensor] = []
    done = write_pictures(rows.append, files, SMALL, copies=Copies())
    assert done.offsets.tolist() == [0, 3, 5]
    assert torch.cat(rows)[:, 0, 0, 0].tolist() == [0, 1, 2, 1, 4]
    assert done.notes == [
        "1 copies of other pictures left out (a/copy.bmp)",
        "1 pictures are in a and in b, the same pixels; nothing can tell them apart",
    ]


def test_a_class_without_a_readable_picture_is_an_error(tmp_path: Path) -> None:
    files = class_files(tmp_path)
    files["b"][0].write_bytes(b"")
    with pytest.raises(InputError, match=r"no picture of class 'b' can be read \(1 such classes\): .*it is empty"):
        written(files, unreadable="skip")


def test_an_unknown_word(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.unreadable=ignore is unknown; choose error or skip"):
        written({}, unreadable="ignore")


def build_and_hang(folder: Path, files: dict[str, list[Path]]) -> None:
    """A process whose threads hang in the middle of a set."""

    class Slow(Pictures):
        def _file_or_reason(self, path: Path, box: Box | None) -> np.ndarray | str:
            if path == files["c"][-1]:
                (folder / "decoding").touch()
                time.sleep(120)
            return super()._file_or_reason(path, box)

    def build(write: cache.Write) -> cache.Classes:
        offsets = write_pictures(write, files, Slow(image_shape=(3, 2, 2), side=2)).offsets
        return cache.Classes(offsets, list(files), [""] * len(files))

    try:
        cache.prepared(folder / "cache", "toy", {}, build)
    except Stopped as error:
        sys.exit(error.exit_code)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_ends_the_preparation_whatever_its_threads_do(
    tmp_path: Path, signum: int, code: int, at_once: bool
) -> None:
    files = class_files(tmp_path)
    begin = time.monotonic()
    with StopSignal(at_once=at_once), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on threads of the parent
        process = multiprocessing.get_context("fork").Process(target=build_and_hang, args=(tmp_path, files))
        process.start()
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        while not (tmp_path / "decoding").exists():
            assert process.is_alive(), "ended before it decoded"
            time.sleep(0.01)
        assert process.pid
        os.kill(process.pid, signum)
        process.join()
    assert process.exitcode == code
    assert time.monotonic() - begin < 100  # its threads sleep for 120 s
    assert not list((tmp_path / "cache").glob("*toy-*/*"))
