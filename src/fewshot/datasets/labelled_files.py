"""Picture files and their classes, by the folders that they lie in or by a CSV file. Layer 1."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fewshot.datasets.class_splits import SPELLINGS, SPLITS
from fewshot.errors import InputError, some
from fewshot.folders import as_label, class_folder, left_out

NEEDED = ("path", "label")  # columns of a CSV file


class Labelled(NamedTuple):
    """Which pictures there are; classes and files in the order of their names."""

    files: dict[str, list[Path]]  # of each class
    split: dict[str, set[str]]  # of each class: where folders or the CSV file put it; empty where they do not
    notes: list[str]  # what was left out


def in_folders(root: Path, *, by_class: bool = False) -> Labelled:
    """root/<class>/*, or root/{train,val,test}/<class>/*; a class is the path of the folder that holds its pictures.

    by_class: the folders train, val and test are not asked for the split, and may be mixed with others.
    InputError where the pictures do not lie so.
    """
    folder = class_folder(root)
    firsts = {label.partition("/")[0] for label in folder.labels}
    split = firsts <= set(SPELLINGS)
    loose = sorted(firsts & set(folder.labels))
    if split and loose:
        raise InputError(
            f"{root}: pictures lie in {some(loose)} itself; put each into a folder named after its class, such as "
            f"{loose[0]}/CLASS"
        )
    parts = sorted({label.partition("/")[0] for label in folder.labels if "/" in label} & set(SPELLINGS))
    if parts and not split and not by_class:
        raise InputError(
            f"{root} has class folders in {some(parts)}, but pictures in {some(sorted(firsts - set(parts)))}, too; put "
            "all class folders into train, val and test, or set dataset.split=fractions: each folder is a class then"
        )
    found = Labelled({}, {}, left_out(folder))
    for path, label in zip(folder.paths, folder.labels, strict=True):
        first, _, name = label.partition("/") if split else ("", "", label)
        _add(found, path, name, first)
    return _in_order(found)


def in_list(file: Path) -> Labelled:
    """The lines of a CSV file: path (below the file's folder, or absolute), label and, where there is one, split.

    Commas, semicolons or tabs stand between the columns; other columns do not count.
    InputError where it cannot be read, a column is missing, or a line lacks one.
    """
    found, short = Labelled({}, {}, []), []
    rows = _rows(file)
    columns = (*NEEDED, "split") if "split" in (rows.fieldnames or ()) else NEEDED
    for row in _lines(rows, file):
        cells = [(row[name] or "").strip() for name in columns]
        path, label, split = (*cells, "")[:3]
        if not all(cells):
            short.append(rows.line_num)
        elif split and split not in SPELLINGS:
            raise InputError(f"{file}, line {rows.line_num}: '{split}' is no split; expected {', '.join(SPLITS)}")
        else:
            _add(found, file.parent / path, label, split)
    if short:
        raise InputError(f"{file}: {len(short)} lines lack a {' or a '.join(columns)} (line {some(short)})")
    if not found.files:
        raise InputError(f"{file} has no lines below its first; each is to be {','.join(columns)}")
    return _in_order(found)


def _lines(rows: "csv.DictReader[str]", file: Path) -> Iterator[dict[str, str]]:
    try:
        yield from rows
    except csv.Error as error:  # a quote that is never closed takes in the rest of the file
        raise InputError(f"{file}, line {rows.line_num}: {error}") from error


def _rows(file: Path) -> "csv.DictReader[str]":
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()  # as spreadsheets write it
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    header = lines[0] if lines else ""
    rows = csv.DictReader(lines, delimiter=max(",;\t", key=header.count), skipinitialspace=True)
    rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
    if missing := [name for name in NEEDED if name not in rows.fieldnames]:
        raise InputError(f"{file} has no column {' and no column '.join(missing)}; its first line is: {header}")
    return rows


def _add(found: Labelled, path: Path, label: str, split: str) -> None:
    label = as_label(label)
    found.files.setdefault(label, []).append(path)
    if split:
        found.split.setdefault(label, set()).add(SPELLINGS[split])


def _in_order(found: Labelled) -> Labelled:
    return found._replace(files={label: sorted(found.files[label]) for label in sorted(found.files)})
