"""For verbs that take words and files instead of overrides. Layer 6."""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from fewshot.engine.durable import replace
from fewshot.errors import InputError
from fewshot.printable import printable


class Words(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def count(text: str) -> int:
    """argparse's type for how many: 1 or more."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
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
