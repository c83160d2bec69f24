"""Prepared arrays on disk: written once, chunk by chunk, under a lock; whole or not at all; memory-mapped. Layer 1."""

import contextlib
import functools
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from fewshot import records, schema
from fewshot.engine import lock
from fewshot.engine.durable import replace, sync
from fewshot.errors import FewshotError, InputError
from fewshot.signals import ending_at_once

FORMAT = 1


class Classes(NamedTuple):
    """Which rows of an array are of which class."""

    offsets: Tensor  # [classes + 1] int64
    class_names: list[str]
    groups: list[str]
    notes: Sequence[str] = ()  # what a user should know of how they were made, a line each


class Prepared(NamedTuple):
    """What the cache keeps of a data set; splits and protocol are the data set's to add."""

    images: Tensor  # [M, C, H, W] uint8, memory-mapped
    offsets: Tensor
    class_names: list[str]
    groups: list[str]
    notes: Sequence[str] = ()
    content: str = ""  # sha256 of the images


Write = Callable[[Tensor], None]  # takes the next rows, [B, C, H, W] uint8
Build = Callable[[Write], Classes]


def cache_entry(cache_dir: str | os.PathLike[str], name: str, key: Mapping[str, Any]) -> Path:
    """The folder of one prepared array; the name carries a hash of everything that shapes its pixels."""
    text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
    return Path(cache_dir) / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def prepared(cache_dir: str | os.PathLike[str], name: str, key: Mapping[str, Any], build: Build) -> Prepared:
    """Open the prepared array of (name, key), building it first where it is missing.

    build: is given a function that takes the images, some rows at a time, and returns what they are. Memory is
    needed for these rows only. One process builds under a lock, others wait and say so. A build that dies leaves
    nothing that could be taken for a data set; one that SIGINT or SIGTERM ends, at once, leaves nothing at all.
    """
    entry = cache_entry(cache_dir, name, key)
    if not (entry / "meta.json").exists():
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            with _lock(entry.with_suffix(".lock"), f"data set '{name}' is being prepared by another process"):
                if not (entry / "meta.json").exists():
                    _install(entry, dict(key), build)
        except OSError as error:
            raise InputError(
                f"cannot store the prepared data set '{name}' in {entry.parent}: {error.strerror or error}; "
                f"make room there, or set cache_dir or FEWSHOT_CACHE to another folder"
            ) from error
    return _open(entry)


def verify(cache_dir: str | os.PathLike[str], name: str, key: Mapping[str, Any]) -> Path | None:
    """Compare a prepared array with its recorded hash; None when it is not prepared, else its folder."""
    entry = cache_entry(cache_dir, name, key)
    if not (entry / "meta.json").exists():
        return None
    _check_pixels(entry, _meta(entry)["sha256"])
    return entry


def _open(entry: Path) -> Prepared:
    """FewshotError where a file is missing or damaged. Pixels are compared with their hash where images.bin has another
    time than it was written at; the time is then kept, so that it is done once."""
    meta, path = _meta(entry), entry / "images.bin"
    shape = meta["shape"]
    size = math.prod(shape)
    try:
        status = path.stat()
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from error
    if status.st_size != size:
        raise _damaged(path, f"has {status.st_size} bytes, expected {size}")
    if meta.get("mtime_ns", status.st_mtime_ns) != status.st_mtime_ns:  # arrays of version 0.1 have no time
        _check_pixels(entry, meta["sha256"])
        with contextlib.suppress(OSError):
            replace(entry / "meta.json", json.dumps(meta | {"mtime_ns": status.st_mtime_ns}).encode())
    images = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).view(shape)
    offsets, notes = torch.tensor(meta["offsets"]), meta.get("notes", [])  # arrays of version 0.1 have no notes
    return Prepared(images, offsets, meta["class_names"], meta["groups"], notes, meta["sha256"])


def _meta(entry: Path) -> dict[str, Any]:
    try:
        return records.read_json(entry / "meta.json", schema.ARRAY, names=True)
    except InputError as error:
        raise FewshotError(f"{error}; delete {entry} and run again") from error


def _check_pixels(entry: Path, expected: str) -> None:
    found = _sha256(entry / "images.bin")
    if found != expected:
        raise _damaged(entry / "images.bin", f"is damaged (sha256 {found[:12]}.., expected {expected[:12]}..)")


def _damaged(path: Path, what: str) -> FewshotError:
    advice = f"delete the folder {path.parent} and run again, or prepare again with fewshot data prepare"
    return FewshotError(f"prepared array {path} {what}; {advice}")


def _install(entry: Path, key: dict[str, Any], build: Build) -> None:
    """Under the lock: write beside the entry's place, then rename into it."""
    for stale in entry.parent.glob(f".{entry.name}-*"):  # of a builder that was killed
        shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
    try:
        clean_up = functools.partial(shutil.rmtree, folder, ignore_errors=True)
        with ending_at_once(clean_up), (folder / "images.bin").open("wb") as file:
            writer = _Writer(file)
            classes = build(writer)
        meta = {
            "key": key,
            "shape": [writer.rows, *writer.shape],
            "sha256": writer.digest.hexdigest(),
            "offsets": classes.offsets.tolist(),
            "class_names": classes.class_names,
            "groups": classes.groups,
            "notes": list(classes.notes),
            "mtime_ns": (folder / "images.bin").stat().st_mtime_ns,
        }
        (folder / "meta.json").write_text(json.dumps(meta))
        for path in (*folder.iterdir(), folder):
            sync(path)
        shutil.rmtree(entry, ignore_errors=True)
        folder.chmod(0o755)  # mkdtemp's 0700 would keep a shared cache from other users
        folder.rename(entry)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Writer:
    """Appends rows to the file of an array."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest, self.rows, self.shape = file, hashlib.sha256(), 0, list[int]()

    def __call__(self, images: Tensor) -> None:
        shape = list(images.shape[1:])
        if images.dtype != torch.uint8 or (self.shape and shape != self.shape):
            raise ValueError(f"rows of {shape} {images.dtype} for an array of {self.shape or 'any'} uint8")
        data = images.contiguous().numpy().data
        self.digest.update(data)
        self.file.write(data)
        self.rows, self.shape = self.rows + len(images), shape


@contextlib.contextmanager
def _lock(path: Path, waiting: str) -> Iterator[None]:
    """An exclusive lock that the system releases when its holder dies."""
    try:
        taken = lock.take(path)
    except BlockingIOError:
        print(f"{waiting}; waiting", file=sys.stderr, flush=True)
        taken = lock.take(path, wait=True)
    try:
        yield
    finally:
        if taken is not None:
            taken.release()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
