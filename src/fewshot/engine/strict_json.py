"""JSON whose every reader can read it: numbers that are not finite, for which it has no word, are texts. Layer 0."""

import json
import math
from collections.abc import Mapping
from typing import Any

NON_FINITE = ("nan", "inf", "-inf")


def dumps(value: Mapping[str, Any], indent: int | None = None) -> str:
    """The text of `value`, with a line's end; keys keep their order."""
    return json.dumps(_storable(value), indent=indent, allow_nan=False) + "\n"


def loads(text: str | bytes) -> Any:
    """What `dumps` was given. ValueError where the text is no JSON."""
    return _restored(json.loads(text, parse_constant=_refuse))


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


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
