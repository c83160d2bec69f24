"""Files that survive a power cut: synced, and replaced as a whole. Layer 0."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Write a file's bytes, or a folder's names, to the disk: otherwise a power cut loses new and renamed files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, data: bytes) -> None:
    """Write a file so that after a kill or a power cut it holds the old bytes or the new."""
    temporary = path.with_name(f".{path.name}-new")  # one writer only: the holder of the folder's lock
    try:
        temporary.write_bytes(data)
        sync(temporary)
        temporary.rename(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
