"""`--help` of the verbs that take overrides: each key with its meaning, the comment in its YAML file. Layer 6."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

KEY = re.compile(r"( *)([\w.]+):(.*)")
COLUMN = 36  # where the meanings stand
UNBROKEN = 10_000  # columns that no line has


def annotated(text: str, meanings: Mapping[str, str], width: int = UNBROKEN) -> str:
    """Hydra's help, in which keys stand as YAML, with the meanings of keys (by their paths) behind them.

    width: columns, into which long lines are broken between words.
    """
    lines, places = [], dict(_paths(text.split("\n")))
    for number, line in enumerate(text.split("\n")):
        meaning = meanings.get(places.get(number, ""))
        if meaning is None:
            lines += _broken(line, width, "  ") or [""]
        else:
            parts = [f"# {part}" for part in _broken(meaning, width - COLUMN - 2, "")]
            if max(len(line) + 1, COLUMN) + len(parts[0]) <= width:
                lines.append(f"{line:<{COLUMN - 1}} {parts.pop(0)}")
            else:
                lines.append(line)
            lines += [f"{'':<{COLUMN}}{part}" for part in parts]
    return "\n".join(lines)


def _broken(line: str, width: int, indent: str) -> list[str]:
    """Lines of at most so many columns, each after the first indented."""
    return textwrap.wrap(line, max(width, 20), subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip


def meanings(config_name: str, choices: Mapping[str, str | None], folders: Sequence[Path]) -> dict[str, str]:
    """Path of a key -> its comment. choices: group -> YAML file; folders: where these are, the first wins."""
    found = _of_file(config_name, "", folders)
    for group, choice in choices.items():
        name = group.split("@")[0]
        if choice and not name.startswith("hydra"):
            found |= _of_file(f"{name}/{choice}", name.replace("/", ".") + ".", folders)
    return found


def _of_file(name: str, prefix: str, folders: Sequence[Path]) -> dict[str, str]:
    """The comments of one file; those that it lacks are of the files that it is made from."""
    import yaml  # late: 20 ms

    file = next((path for folder in folders if (path := folder / f"{name}.yaml").is_file()), None)
    if file is None:
        return {}
    text = file.read_text(encoding="utf-8")
    if package := re.match(r"# @package (\S+)", text):
        prefix = f"{package[1]}."
    found: dict[str, str] = {}
    for base in (yaml.safe_load(text) or {}).get("defaults", []):
        if isinstance(base, str) and base != "_self_" and "/" in name:
            found |= _of_file(f"{name.rpartition('/')[0]}/{base}", prefix, folders)
        elif isinstance(base, dict):  # several files of one group, which are in no choice
            several = [(group, one) for group, names in base.items() if isinstance(names, list) for one in names]
            for group, one in several:
                found |= _of_file(f"{group}/{one}", f"{prefix}{group}.", folders)
    lines = text.split("\n")
    for number, place in _paths(lines):
        _, sign, meaning = lines[number].partition(" # ")
        if sign:
            found[prefix + place] = meaning.strip()
    return found


def _paths(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Number of a line and the path of the key in it."""
    above: list[tuple[int, str]] = []
    for number, line in enumerate(lines):
        if match := KEY.fullmatch(line):
            depth = len(match[1])
            above = [(d, key) for d, key in above if d < depth]
            above.append((depth, match[2]))
            yield number, ".".join(key for _, key in above)
