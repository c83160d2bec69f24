"""Text from files and folder names, made fit to be printed. Layer 0."""

import unicodedata
from typing import Any

UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control characters, what turns the direction of text, bytes that are no text
JOINERS = "\u200c\u200d"  # of Cf; words of several scripts and emoji are written with them


def printable(text: object) -> str:
    """The text with what a terminal would obey, not show, written as an escape: `\\x1b[2J`, `\\n`, `\\u202e`."""
    return "".join(map(_shown, str(text)))


def all_printable(value: Any) -> Any:
    """Plain data with every text in it printable, keys too."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {all_printable(key): all_printable(item) for key, item in value.items()}
    return [all_printable(item) for item in value] if isinstance(value, list) else value


def _shown(character: str) -> str:
    hidden = unicodedata.category(character) in UNSEEN and character not in JOINERS
    return character.encode("unicode_escape").decode() if hidden else character
