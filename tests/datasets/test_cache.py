"""Prepared arrays: built by one process at a time, installed whole or not at all, damage noticed."""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from fewshot.datasets import cache
from fewshot.errors import FewshotError
from fewshot.signals import Stopped, StopSignal

KEY = {"size": 3}


def making(value: int) -> cache.Build:
    """Four images, written in two pieces."""

    def build(write: cache.Write) -> cache.Classes:
        images = pixels(value)
        write(images[:1])
        write(images[1:])
        return cache.Classes(torch.tensor([0, 2, 4]), ["a", "b"], ["", ""])

    return build


def pixels(value: int = 7) -> torch.Tensor:
    return torch.full((4, 1, 3, 3), value, dtype=torch.uint8)


make = making(7)


def never(write: cache.Write) -> cache.Classes:
    raise AssertionError("built a second time")


def build_elsewhere(folder: Path, mode: str) -> None:
    """What the other process does: say that it builds, then go on as told by `mode`."""

    def build(write: cache.Write) -> cache.Classes:
        (folder / "building").touch()
        while mode == "wait" and not (folder / "go").exists():
            time.sleep(0.01)
        if mode == "hang":
            time.sleep(60)
        if mode == "die":  # between the images and what describes them
            Path.write_text = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore
        return make(write)

    try:
        cache.prepared(folder / "cache", "toy", KEY, build)
    except Stopped as error:
        sys.exit(error.exit_code)


@contextlib.contextmanager
def another_process(folder: Path, mode: str) -> Iterator[BaseProcess]:
    """Begins when it builds, ends with it. Forked, as a fresh one would import torch for seconds."""
    process = multiprocessing.get_context("fork").Process(target=build_elsewhere, args=(folder, mode))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on threads of the parent
        process.start()
    while not (folder / "building").exists():
        assert process.is_alive(), "the other process ended before it began to build"
        time.sleep(0.01)
    try:
        yield process
        process.join()
    finally:
        process.kill()


def test_built_once_and_opened_after(tmp_path: Path) -> None:
    first = cache.prepared(tmp_path, "toy", KEY, make)
    again = cache.prepared(tmp_path, "toy", KEY, never)
    for found in (first, again):
        assert found.images.dtype == torch.uint8
        assert torch.equal(found.images, pixels())
        assert found.offsets.tolist() == [0, 2, 4]
        assert (found.class_names, found.groups) == (["a", "b"], ["", ""])


def test_every_part_of_the_key_has_its_own_array(tmp_path: Path) -> None:
    cache.prepared(tmp_path, "toy", KEY, make)
    assert cache.prepared(tmp_path, "toy", KEY | {"size": 4}, making(9)).images.unique().tolist() == [9]
    assert cache.prepared(tmp_path, "toy", KEY, never).images.unique().tolist() == [7]


def test_the_images_of_a_run_do_not_write_into_the_cache(tmp_path: Path) -> None:
    cache.prepared(tmp_path, "toy", KEY, make).images.zero_()
    assert cache.prepared(tmp_path, "toy", KEY, never).images.unique().tolist() == [7]


def test_a_second_process_waits_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Screen:
        def write(self, text: str) -> None:
            said.append(text)
            (tmp_path / "go").touch()  # the other one is let go only once we wait

        def flush(self) -> None:
            pass

    with another_process(tmp_path, "wait") as process:
        monkeypatch.setattr(sys, "stderr", Screen())
        found = cache.prepared(tmp_path / "cache", "toy", KEY, never)
        monkeypatch.undo()
    assert process.exitcode == 0
    assert "data set 'toy' is being prepared by another process; waiting" in "".join(said)
    assert torch.equal(found.images, pixels())


def test_a_killed_builder_leaves_no_data_set_and_no_lock(tmp_path: Path) -> None:
    with another_process(tmp_path, "hang") as process:
        process.kill()
    assert not list((tmp_path / "cache").glob("toy-*/*"))
    assert cache.prepared(tmp_path / "cache", "toy", KEY, make).images.unique().tolist() == [7]


@pytest.mark.parametrize(
    ("signum", "code", "at_once"),
    [(signal.SIGINT, 130, False), (signal.SIGINT, 130, True), (signal.SIGTERM, 75, False), (signal.SIGHUP, 75, True)],
)
def test_a_signal_ends_a_build_at_once(tmp_path: Path, signum: int, code: int, at_once: bool) -> None:
    """Also within a run, which else waits for the end of a step."""
    begin = time.monotonic()
    with StopSignal(at_once=at_once), another_process(tmp_path, "hang") as process:
        assert process.pid
        os.kill(process.pid, signum)
    assert process.exitcode == code
    assert time.monotonic() - begin < 50  # it would hang for 60 s
    assert not list((tmp_path / "cache").glob("*toy-*/*"))


def test_pieces_of_different_shapes_are_no_array(tmp_path: Path) -> None:
    def build(write: cache.Write) -> cache.Classes:
        write(torch.zeros(1, 1, 3, 3, dtype=torch.uint8))
        write(torch.zeros(1, 1, 3, 4, dtype=torch.uint8))
        raise AssertionError("taken")

    with pytest.raises(ValueError, match=r"rows of \[1, 3, 4\] torch.uint8 for an array of \[1, 3, 3\] uint8"):
        cache.prepared(tmp_path, "toy", KEY, build)


def test_a_builder_killed_while_it_stores_leaves_no_data_set(tmp_path: Path) -> None:
    with another_process(tmp_path, "die") as process:
        pass
    assert process.exitcode == -signal.SIGKILL
    assert not cache.cache_entry(tmp_path / "cache", "toy", KEY).exists()
    assert cache.verify(tmp_path / "cache", "toy", KEY) is None
    assert cache.prepared(tmp_path / "cache", "toy", KEY, make).images.unique().tolist() == [7]
    assert cache.verify(tmp_path / "cache", "toy", KEY)


def test_a_build_that_raises_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        cache.prepared(tmp_path, "toy", KEY, never)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert torch.equal(cache.prepared(tmp_path, "toy", KEY, make).images, pixels())


def test_a_flipped_byte_is_found_by_verify(tmp_path: Path) -> None:
    assert cache.verify(tmp_path, "toy", KEY) is None
    cache.prepared(tmp_path, "toy", KEY, make)
    entry = cache.verify(tmp_path, "toy", KEY)
    assert entry == cache.cache_entry(tmp_path, "toy", KEY)
    data = bytearray((entry / "images.bin").read_bytes())
    data[20] ^= 1
    (entry / "images.bin").write_bytes(data)
    with pytest.raises(FewshotError, match=r"images\.bin is damaged \(sha256 .*expected .*prepare again"):
        cache.verify(tmp_path, "toy", KEY)


def test_damaged_pixels_are_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever changed images.bin changed its time, too; a copy with another time is compared once."""
    cache.prepared(tmp_path, "toy", KEY, make)
    path = cache.cache_entry(tmp_path, "toy", KEY) / "images.bin"
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    os.utime(path, ns=(1, 1))
    with pytest.raises(FewshotError, match=r"images\.bin is damaged \(sha256 .*; delete .* and run again"):
        cache.prepared(tmp_path, "toy", KEY, make)
    path.write_bytes(data)
    assert torch.equal(cache.prepared(tmp_path, "toy", KEY, make).images, pixels())
    monkeypatch.setattr(cache, "_sha256", lambda _: pytest.fail("compared again"))
    cache.prepared(tmp_path, "toy", KEY, make)


@pytest.mark.parametrize("text", ["", "[]", '{"shape": [3, 1, 2, 2]}', '{"shape": "x"}'])
def test_a_torn_description_and_missing_images(tmp_path: Path, text: str) -> None:
    cache.prepared(tmp_path, "toy", KEY, make)
    entry = cache.cache_entry(tmp_path, "toy", KEY)
    (entry / "images.bin").unlink()
    with pytest.raises(FewshotError, match=r"images\.bin cannot be read \(No such file.*; delete .* and run again"):
        cache.prepared(tmp_path, "toy", KEY, make)
    (entry / "meta.json").write_text(text)
    with pytest.raises(FewshotError, match=r"meta\.json is damaged: .*; delete .* and run again"):
        cache.prepared(tmp_path, "toy", KEY, make)


def test_a_truncated_array_is_not_opened(tmp_path: Path) -> None:
    cache.prepared(tmp_path, "toy", KEY, make)
    path = cache.cache_entry(tmp_path, "toy", KEY) / "images.bin"
    os.truncate(path, 35)
    with pytest.raises(FewshotError, match=r"has 35 bytes, expected 36; delete .* and run again"):
        cache.prepared(tmp_path, "toy", KEY, never)


def test_the_record_beside_the_array_says_what_it_is(tmp_path: Path) -> None:
    cache.prepared(tmp_path, "toy", KEY, make)
    meta = json.loads((cache.cache_entry(tmp_path, "toy", KEY) / "meta.json").read_text())
    assert meta["key"] == KEY
    assert meta["shape"] == [4, 1, 3, 3]


def test_paths_with_spaces_and_unicode(tmp_path: Path) -> None:
    folder = tmp_path / "Größe, mit Leerzeichen" / ("long" * 40)
    assert torch.equal(cache.prepared(folder, "toy", KEY, make).images, pixels())
