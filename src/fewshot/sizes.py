"""How many ways, shots and queries an episode has: one number of each, or a draw. Layer 0; imports no torch.

5                               always
{low: 1, high: 9}               ways or shots: drawn for each task, each number from low to high equally likely
{low: 1, high: 9, per: class}   shots: drawn for each class of a task
{rest_of: 12}                   queries: what the shots leave of so many images of a class
"""

import math
import re
from collections.abc import Mapping
from statistics import fmean
from typing import Any, NamedTuple, TypeGuard

from fewshot.errors import InputError

LEAST = {"ways": 2, "shots": 1, "queries": 1}
MOST = 10_000  # numbers that are drawn among
Value = int | Mapping[str, Any]  # as a configuration has it


class Size(NamedTuple):
    """A number from `low` to `high`, drawn per `task` or per `class`."""

    low: int
    high: int
    per: str = "task"

    def __str__(self) -> str:
        if self.low == self.high:
            return str(self.low)
        return f"{self.low} to {self.high}" + (" per class" if self.per == "class" else "")


class Sizes(NamedTuple):
    """Those of an episode. rest_of: images of each class in all, where the queries are what the shots leave of them."""

    ways: Size
    shots: Size
    queries: Size
    rest_of: int | None

    @property
    def drawn(self) -> bool:
        """Whether episodes differ in size: in a batch smaller ones are then padded."""
        return any(size.low < size.high for size in (self.ways, self.shots, self.queries))


def sizes(ways: Value, shots: Value, queries: Value, *, prefix: str = "") -> Sizes:
    """InputError where one of them is not as above. prefix: of the keys in messages, `train_` or nothing."""
    of_ways, of_shots = _size(f"{prefix}ways", ways), _size(f"{prefix}shots", shots)
    if not isinstance(queries, Mapping):
        return Sizes(of_ways, of_shots, _size(f"{prefix}queries", queries), None)
    images = queries.get("rest_of")
    if set(queries) != {"rest_of"} or not _whole(images) or images <= of_shots.high:
        raise InputError(
            f"{prefix}queries={_written(queries)}: write a whole number, or {{rest_of: {of_shots.high + 1}}}, the "
            f"images of a class of which up to {of_shots.high} are shots"
        )
    return Sizes(of_ways, of_shots, Size(images - of_shots.high, images - of_shots.low, of_shots.per), images)


def largest(value: Value) -> int:
    """The most ways that an episode may have."""
    return _size("ways", value).high


def in_words(value: Value) -> int | str:
    """As a result names a size: 5, `1 to 9`, `1 to 9 per class`, `the rest of 12`."""
    if not isinstance(value, Mapping):
        return value
    return f"the rest of {value['rest_of']}" if "rest_of" in value else str(_size("shots", value))


def numbers(text: Any) -> list[int]:
    """The numbers in what `in_words` gave, to sort by."""
    return [int(word) for word in re.findall(r"\d{1,9}", str(text))]


def chance(ways: Any) -> float:
    """Accuracy of guessing, percent, for ways as `in_words` gave them; not a number for what it never gives."""
    found = numbers(ways)
    if not found or not 0 < found[0] <= found[-1] <= found[0] + MOST:
        return math.nan
    return fmean(100 / n for n in range(found[0], found[-1] + 1))


def _size(name: str, value: Any) -> Size:
    least = LEAST[name.removeprefix("train_")]
    fixed = {"low": value, "high": value} if not isinstance(value, Mapping) else value
    per = fixed.get("per", "task")
    if not _whole(fixed.get("low")) or not _whole(fixed.get("high")) or set(fixed) - {"low", "high", "per"}:
        raise InputError(f"{name}={_written(value)}: write a whole number, or {{low: {least}, high: {least + 4}}}")
    if fixed["low"] < least:
        where = name if fixed is not value else f"{name}.low"
        raise InputError(f"{where}={fixed['low']} is below {least}")
    if not fixed["low"] <= fixed["high"] <= fixed["low"] + MOST:
        fault = "below" if fixed["high"] < fixed["low"] else f"more than {MOST} above"
        raise InputError(f"{name}.high={fixed['high']} is {fault} {name}.low={fixed['low']}")
    if per not in ("task", "class") or (per == "class" and not name.endswith("shots")):
        choices = "task or class" if name.endswith("shots") else "task: the ways of a task are one number"
        raise InputError(f"{name}.per={per} is unknown; choose {choices}")
    return Size(fixed["low"], fixed["high"], per)


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {item}" for key, item in value.items()) + "}"
    return "null" if value is None else str(value)
