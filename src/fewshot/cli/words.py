"""For verbs that take words and files instead of overrides. Layer 6."""

import argparse
import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from fewshot.engine.durable import replace
from fewshot.errors import InputError
from fewshot.printable import printable

MOST = 100  # episodes in a picture


class Words(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def from_home(text: str) -> str:
    """A path with the user's folder for a `~` at its start, which the shell leaves alone within a word."""
    return os.path.expanduser(text) if re.match(r"~(/|$)", text) else text  # noqa: PTH111  without a home: as it is


def path(text: str) -> Path:
    """argparse's type for a file or folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return Path(from_home(text))


def count(text: str) -> int:
    """argparse's type for how many: 1 to MOST."""
    if not 1 <= (number := int(text)) <= MOST:
        raise argparse.ArgumentTypeError(f"{number} is below 1" if number < 1 else f"{number} is above {MOST}")
    return number


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes the folder of a file that the user asked for; InputError where that, or writing the file, fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(f"cannot write {printable(path)}: {error.strerror or error}; choose another file") from error


def check_writable(path: Path) -> None:
    """InputError where a file that the user asked for cannot be written; makes its folder, and no empty file."""
    if path.is_fifo():  # which would wait for its reader
        return
    with writing(path):
        new = not path.exists()
        path.open("ab").close()
        if new:
            path.unlink()


def write(path: Path, content: str | bytes) -> None:
    """Write a file that the user asked for, and make its folder: what was there before stays until the new is whole.

    InputError where that fails. A pipe or a device is written as it is.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with writing(path):
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            replace(path.resolve(), data)
