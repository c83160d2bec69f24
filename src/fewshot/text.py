"""Text that others wrote, as text of a CSV file, of Markdown and of LaTeX, which would obey it, and in the name of a
file. Layer 0."""

import re
import unicodedata

from fewshot.printable import printable

# What a spreadsheet takes for a formula (OWASP, "CSV Injection"); a number with a sign is none.
FORMULA = re.compile(r"[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")  # the last four are the wide forms of the first
LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "≈": r"$\approx$",
    "–": "--", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", **{c: f"\\{c}" for c in "&%$#_{}"},
}  # fmt: skip


def file_name(text: str) -> str:
    """A name as part of a file's: what is no letter, digit or one of `.,+-_` as a dash."""
    return re.sub(r"[^\w.,+-]+", "-", text)


def csv_cell(value: object) -> object:
    """Text that a spreadsheet shows and does not compute; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if FORMULA.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def latex(text: str) -> str:
    """For a LaTeX document; letters beyond ASCII need one that is read as UTF-8, as all are since 2018."""
    return "".join(LATEX.get(c, c) for c in printable(text))


def markdown(text: str) -> str:
    """For a cell of a Markdown table, or a line of text."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # within a word it is no markup


def shortened(text: str, most: int) -> str:
    """The beginning and the end of a text that is longer than `most` characters."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def columns(text: str) -> int:
    """Its width, in Latin letters: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)
