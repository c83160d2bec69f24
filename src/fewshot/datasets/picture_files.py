"""Picture files, class by class, into a prepared array. Layer 1."""

import contextlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewshot.datasets.cache import Write
from fewshot.errors import InputError
from fewshot.pictures import Box, Pictures

log = logging.getLogger(__name__)

CHUNK = 16 << 20  # bytes of images that are held until they are written
NAMED = 10  # unreadable files that a message names, each with its reason
UNREADABLE = ("error", "skip")


def write_pictures(
    write: Write, files: Mapping[str, Sequence[Path]], pictures: Pictures, *, unreadable: str = "error",
    boxes: Mapping[Path, Box] | None = None,
) -> Tensor:  # fmt: skip
    """Decode the files of each class, in their order, and write them: offsets [classes + 1] int64 of the classes.

    Memory is needed for CHUNK and the few files that are being decoded, whatever the number of files.
    boxes: the part of a file's picture that is used; None: all of each.
    unreadable: error (after all files have been tried, InputError that names them) | skip (they are left out; a
    warning says how many). A class of which nothing can be read is an InputError with either.
    """
    if unreadable not in UNREADABLE:
        raise InputError(f"dataset.unreadable={unreadable} is unknown; choose {' or '.join(UNREADABLE)}")
    refused: list[str] = []
    offsets = [0]
    rows: list[np.ndarray] = []
    with contextlib.closing(pictures.each([path for paths in files.values() for path in paths], boxes)) as images:
        for paths in files.values():
            readable = 0
            for image in itertools.islice(images, len(paths)):
                if isinstance(image, str):
                    refused.append(image)
                    continue
                readable += 1
                rows.append(image)
                if len(rows) * image.nbytes >= CHUNK:
                    _flush(write, rows)
            offsets.append(offsets[-1] + readable)
        _flush(write, rows)
    empty = [name for name, (begin, end) in zip(files, itertools.pairwise(offsets), strict=True) if begin == end]
    _judge(refused, empty, unreadable)
    return torch.tensor(offsets)


def _flush(write: Write, rows: list[np.ndarray]) -> None:
    if rows:
        write(torch.from_numpy(np.stack(rows)))
        rows.clear()


def _judge(refused: Sequence[str], empty: Sequence[str], unreadable: str) -> None:
    """What becomes of the files that could not be read, and of classes without any that could."""
    more = f"; and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
    named = "; ".join(refused[:NAMED]) + more
    if refused and unreadable == "error":
        raise InputError(
            f"{len(refused)} pictures cannot be used: {named}; remove or replace them, or set dataset.unreadable=skip"
        )
    if empty:
        raise InputError(f"no picture of class '{empty[0]}' can be read ({len(empty)} such classes): {named}")
    if refused:
        log.warning("%d pictures cannot be used and are left out: %s", len(refused), named)
