"""Pictures in folders: which files are meant, and of which class each is. Layer 1."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fewshot.errors import InputError

NO_PICTURES = ("Thumbs.db", "desktop.ini", "__MACOSX")  # what systems leave in folders of pictures


class Folder(NamedTuple):
    """The pictures below a folder, in the order of their names."""

    paths: list[Path]
    labels: list[str]  # of each: the path of the folder that holds it, below the root; "" for the root itself
    hidden: list[Path]  # files left out: their name, or that of a folder above, begins with a dot
    others: list[Path]  # files left out: their ending is none of a picture


def look_into(root: Path) -> Folder:
    """All files below `root`, at any depth, sorted into pictures and what is left out.

    InputError where `root` is no folder, may not be read, or has no pictures.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder" if root.exists() else f"{root} does not exist")
    found = Folder([], [], [], [])
    try:
        for path in sorted(_files(root)):
            below = path.relative_to(root)
            if any(part.startswith(".") or part in NO_PICTURES for part in below.parts):
                found.hidden.append(path)
            elif path.suffix.lower() not in endings():
                found.others.append(path)
            else:
                found.paths.append(path)
                found.labels.append("" if below.parent == Path() else below.parent.as_posix())
    except PermissionError as error:
        raise InputError(f"{error.filename} may not be read; change its rights") from error
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


def endings() -> frozenset[str]:
    """File name endings of the picture formats that Pillow reads."""
    from PIL import Image

    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def some(names: Sequence[object], most: int = 3) -> str:
    """The first few of them, and how many there are beside."""
    more = len(names) - most
    return ", ".join(map(str, names[:most])) + (f" and {more} more" if more > 0 else "")


def _files(folder: Path) -> list[Path]:
    """Files below a folder; what a link points to is not followed twice. PermissionError where it may not be listed."""
    files: list[Path] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            if not entry.is_symlink():
                files += _files(entry)
        else:
            files.append(entry)
    return files
