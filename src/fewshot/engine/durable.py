"""Files that survive a power cut: synced, and replaced as a whole. Layer 0."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from fewshot.errors import FewshotError


def sync(path: Path) -> None:
    """Write a file's bytes, or a folder's names, to the disk: otherwise a power cut loses new and renamed files."""
    if os.name == "nt" and path.is_dir():  # Windows syncs no folders
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, data: bytes) -> None:
    """Write a file so that after a kill or a power cut it holds the old bytes or the new."""
    temporary = path.with_name(f".{path.name}-new")  # one writer only: the holder of the folder's lock
    try:
        temporary.unlink(missing_ok=True)  # left by a kill; in a folder that somebody sent, perhaps a link
        with temporary.open("xb") as file:
            file.write(data)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def reported(path: Path, kind: type[FewshotError]) -> Iterator[None]:
    """A disk that refuses is reported in one line, as an error of this kind. path: the folder that is written in."""
    try:
        yield
    except OSError as error:
        raise kind(
            f"cannot write in {path}: {error.strerror}; make room there, or choose another output_dir"
        ) from error
