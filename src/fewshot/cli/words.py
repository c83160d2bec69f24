"""For verbs that take words and files instead of overrides. Layer 6."""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from fewshot.errors import InputError


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
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another file") from error
