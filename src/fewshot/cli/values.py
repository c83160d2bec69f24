"""Values that no key may have, whatever its type: numbers that are none, names and paths that lead elsewhere. Layer 6.

Ranges of single keys are checked where they are read: by the constructor that the key belongs to.
"""

import math
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from fewshot.errors import InputError
from fewshot.identity import flatten

LARGEST = 2**63 - 1  # of what a tensor can hold
LARGEST_FLOAT = 3.4e38  # of 32 bits
MAX_NAME = 200  # bytes; file systems take 255, and more is added
PATHS = ("output_dir", "data_dir", "cache_dir", "run", "init", "resume", "evaluation.episodes_file")
TEXTS = (*PATHS, "name", "split", "train_split", "evaluation.val_split", "evaluation.test_split", "dataset.root",
         "dataset.split")  # fmt: skip
SEEDS = ("seed", "eval_seed")


def check(config: Mapping[str, Any]) -> None:
    """InputError for the first value that cannot be meant. config: resolved."""
    flat = flatten(config)
    for path, value in flat.items():
        for number in _numbers(value):
            if isinstance(number, int) and abs(number) > LARGEST:
                raise InputError(f"{path}={value} is too large; the largest whole number is {LARGEST}")
            if isinstance(number, float) and LARGEST_FLOAT < abs(number) < math.inf:
                raise InputError(f"{path}={value} is too large; the largest number is {LARGEST_FLOAT:g}")
            if not math.isfinite(number):
                raise InputError(f"{path}={value} is not finite; give a number, or null where the key has none")
    for path in SEEDS:
        if (flat.get(path) or 0) < 0:
            raise InputError(f"{path}={flat[path]} is below 0; a seed is a whole number from 0 to {LARGEST}")
    for path in PATHS:
        if (text := flat.get(path)) is not None:
            _check_text(path, str(text))
    if (name := flat.get("name")) is not None:
        _check_name(str(name))


def _numbers(value: Any) -> Iterator[int | float]:
    """The numbers in a value, lists of them included."""
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _check_text(path: str, text: str) -> None:
    if not text.strip():
        raise InputError(f"{path} is empty; name a folder or file ('.' is the working directory), or leave {path} out")
    if text != text.strip() or any(_controls(c) for c in text):
        raise InputError(f"{path}={text!r} has {_odd(text)}; leave it out")


def _check_name(name: str) -> None:
    """A run's name is that of a folder."""
    _check_text("name", name)
    if "/" in name or "\\" in name or name in (".", ".."):
        raise InputError(f"name={name} is no name of one folder; leave out '/', '\\' and '..', set output_dir instead")
    if len(name.encode()) > MAX_NAME:
        raise InputError(f"name has {len(name.encode())} bytes; give at most {MAX_NAME}")


def _odd(text: str) -> str:
    if text != text.strip():
        return "a space or line end at its start or end"
    return f"the control character {next(c for c in text if _controls(c))!r}"


def _controls(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Zl", "Zp")
