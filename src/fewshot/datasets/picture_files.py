"""Picture files, class by class, into a prepared array. Layer 1."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewshot.copies import Copies
from fewshot.datasets.cache import Write
from fewshot.datasets.duplicates import digest
from fewshot.errors import InputError, check_choice
from fewshot.pictures import Box, Pictures

CHUNK = 16 << 20  # bytes of images that are held until they are written
NAMED = 10  # unreadable files that a message names, each with its reason


class Written(NamedTuple):
    """What became of files that were written to an array."""

    offsets: Tensor  # [classes + 1] int64, of the classes
    notes: list[str]  # what a user should know of them, a line each


def write_pictures(
    write: Write, files: Mapping[str, Sequence[Path]], pictures: Pictures, *, unreadable: str = "error",
    boxes: Mapping[Path, Box] | None = None, copies: Copies | None = None, named: int = NAMED,
) -> Written:  # fmt: skip
    """Decode the files of each class, in their order, and write them.

    Memory is needed for CHUNK and the few files that are being decoded, whatever the number of files.
    boxes: the part of a file's picture that is used; None: all of each.
    unreadable: error (after all files have been tried, InputError that names `named` of them) | skip (they are left
    out, with a note). A class of which nothing can be read is an InputError with either.
    copies: leaves out the second of two pictures of a class that are alike in every pixel; None: both are written.
    """
    check_choice("dataset.unreadable", unreadable, ("error", "skip"))
    refused: list[str] = []
    offsets = [0]
    rows: list[np.ndarray] = []
    with contextlib.closing(pictures.each([path for paths in files.values() for path in paths], boxes)) as images:
        for label, paths in files.items():
            kept = 0
            for path, image in zip(paths, itertools.islice(images, len(paths)), strict=True):
                if isinstance(image, str):
                    refused.append(image)
                    continue
                if copies is not None and not copies.is_new(digest(image), label, f"{label}/{path.name}"):
                    continue
                kept += 1
                rows.append(image)
                if len(rows) * image.nbytes >= CHUNK:
                    _flush(write, rows)
            offsets.append(offsets[-1] + kept)
        _flush(write, rows)
    empty = [label for label, (begin, end) in zip(files, itertools.pairwise(offsets), strict=True) if begin == end]
    notes = _judged(refused, empty, unreadable, named)
    return Written(torch.tensor(offsets), notes + (copies.notes() if copies else []))


def _flush(write: Write, rows: list[np.ndarray]) -> None:
    if rows:
        write(torch.from_numpy(np.stack(rows)))
        rows.clear()


def _judged(refused: Sequence[str], empty: Sequence[str], unreadable: str, most: int) -> list[str]:
    """What becomes of the files that could not be read, and of classes without any that could."""
    more = f"; and {len(refused) - most} more" if len(refused) > most else ""
    named = "; ".join(refused[:most]) + more
    if refused and unreadable == "error":
        raise InputError(
            f"{len(refused)} pictures cannot be used: {named}; remove or replace them, or set dataset.unreadable=skip"
        )
    if empty:
        raise InputError(f"no picture of class '{empty[0]}' can be read ({len(empty)} such classes): {named}")
    return [f"{len(refused)} pictures cannot be used and are left out: {named}"] if refused else []
