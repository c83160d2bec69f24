"""Pictures in folders: which files are meant, and of which class each is. Layer 1."""

import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fewshot.errors import InputError, some
from fewshot.printable import printable

NO_PICTURES = ("Thumbs.db", "desktop.ini", "__MACOSX")  # what systems leave in folders of pictures


class Folder(NamedTuple):
    """The pictures below a folder, in the order of their names."""

    paths: list[Path]
    labels: list[str]  # of each: the path of the folder that holds it, below the root, printable; "" for the root
    hidden: list[Path]  # files left out: their name, or that of a folder above, begins with a dot
    others: list[Path]  # files left out: their ending is none of a picture


def look_into(root: Path) -> Folder:
    """All files below `root`, at any depth, sorted into pictures and what is left out.

    InputError where `root` is no folder, may not be read, or has no pictures.
    """
    found, known = Folder([], [], [], []), endings()
    try:
        if not stat.S_ISDIR(root.stat().st_mode):
            raise InputError(f"{root} is not a folder")
        below = sorted(_files(root))
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} does not exist") from error
    except PermissionError as error:
        raise InputError(f"{error.filename} may not be read; change its rights") from error
    for parts in below:
        path = root.joinpath(*parts)
        if any(part.startswith(".") or part in NO_PICTURES for part in parts):
            found.hidden.append(path)
        elif path.suffix.lower() not in known:
            found.others.append(path)
        else:
            found.paths.append(path)
            found.labels.append(as_label("/".join(parts[:-1])))
    if not found.paths:
        have = f"; {len(found.others)} other files, such as {found.others[0].name}" if found.others else ""
        raise InputError(f"no pictures below {root}{have}")
    return found


def class_folder(root: Path) -> Folder:
    """`look_into`, for a folder with a folder of pictures for each class; InputError where it is not so."""
    found = look_into(root)
    loose = [path for path, label in zip(found.paths, found.labels, strict=True) if not label]
    if loose:
        raise InputError(
            f"{len(loose)} pictures lie in {root} itself ({loose[0].name}, ...); put each into a folder named "
            f"after its class"
        )
    classes = sorted(set(found.labels))
    if len(classes) < 2:
        raise InputError(f"{root} has one class, {classes[0]}; two are needed to tell apart")
    return found


def as_label(text: str) -> str:
    """The name of a class: line breaks, and bytes that are no text, written as escapes; an é that macOS has written as
    two characters is the é of others."""
    text = unicodedata.normalize("NFC", text)
    return text if text.isprintable() else printable(text)


def name_of(root: str | Path) -> str:
    """What a folder of pictures, or a file that lists them, is called: its own name, without a file's ending."""
    path = Path(os.path.abspath(Path(root).expanduser()))  # noqa: PTH100  without `..`, and links as they are called
    return as_label(path.stem if path.suffix.lower() == ".csv" else path.name)


def left_out(folder: Folder) -> list[str]:
    """What `look_into` left out, a line for each reason."""
    reasons = (("hidden files", folder.hidden), ("files that are no pictures", folder.others))
    return [f"{len(files)} {reason} left out ({some([f.name for f in files])})" for reason, files in reasons if files]


def endings() -> frozenset[str]:
    """File name endings of the picture formats that Pillow reads, and of HEIC, which phones write: an error says so."""
    from PIL import Image

    known = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return frozenset(known | {".heic", ".heif"})


def _files(folder: Path, parts: tuple[str, ...] = (), above: frozenset[str] = frozenset()) -> Iterator[tuple[str, ...]]:
    """Files below a folder, each as the parts of its path; PermissionError where one may not be listed.

    Links are followed, but for one that leads back to a folder that it lies in.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(Path(entry.path), (*parts, entry.name), above | {real})
            else:
                yield (*parts, entry.name)
