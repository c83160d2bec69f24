"""JSON whose every reader can read it: numbers that are not finite, for which it has no word, are texts. Layer 0."""

import json
import math
from collections.abc import Mapping
from typing import Any

NON_FINITE = ("nan", "inf", "-inf")
LARGEST = 2**63 - 1  # whole number; readers in other languages know no larger one, and a float holds few of them


def dumps(value: Mapping[str, Any], indent: int | None = None) -> str:
    """The text of `value`, with a line's end; keys keep their order."""
    return json.dumps(_storable(value), indent=indent, allow_nan=False) + "\n"


def parsed(text: str | bytes) -> Any:
    """The JSON as it stands: a text stays one, also where it is the word for a number (a class may be called nan).

    ValueError where the text is no JSON, or has a whole number of more than 64 bits.
    """
    return json.loads(text, parse_constant=_refuse, parse_int=_whole)


def loads(text: str | bytes) -> Any:
    """What `dumps` was given, where its texts are words for numbers alone. ValueError as for `parsed`."""
    return _restored(parsed(text))


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _whole(digits: str) -> int:
    if abs(number := int(digits)) > LARGEST:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return number


def _storable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return str(float(value)) if isinstance(value, float) and not math.isfinite(value) else value


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restored(item) for item in value]
    return float(value) if value in NON_FINITE else value
