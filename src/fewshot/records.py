"""The files of a run folder, read as what a stranger may have sent. Layer 1; imports no torch.

Only regular files of a bounded size are opened, nothing in them is code, and what they hold is checked against a
schema before anybody uses it. `Damaged` says in one line which file it is and what is wrong with it.
"""

import hashlib
import io
import math
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fewshot.engine import strict_json
from fewshot.errors import InputError, first_line
from fewshot.printable import all_printable, printable
from fewshot.schema import NEVER, fault

MB = 1 << 20
MOST_BYTES = {".yaml": MB, ".json": 64 * MB, ".jsonl": 1024 * MB, ".npz": 1024 * MB}  # of a file, and of what is in it
DEEPEST = 100  # nesting of a YAML file
SEAL = "seal"  # the last key of a JSON record: the hash of all others


class Damaged(InputError):
    """A record that is not what a run writes."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{printable(path)} is damaged: {printable(why)}")


def content(path: Path) -> bytes:
    """The bytes of a file. FileNotFoundError where there is none; Damaged where it is no file, or much too large."""
    most = MOST_BYTES.get(path.suffix, MB)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Damaged(path, "it is a folder, not a file" if stat.S_ISDIR(status.st_mode) else "it is not a file")
        if status.st_size > most:
            raise Damaged(path, f"it has {status.st_size} bytes, more than the {most} that are read")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(path, error.strerror or str(error)) from error


def read_json(path: Path, schema: Mapping[str, Any], *, names: bool = False) -> dict[str, Any]:
    """A JSON record, its seal taken off. Texts in it are made printable, but for `names` that are to be compared."""
    try:
        value = strict_json.parsed(content(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, Damaged):
            raise
        raise Damaged(path, f"it is no JSON ({error})") from error
    value = _fitting(path, value, schema)
    value.pop(SEAL, None)
    return value if names else all_printable(value)


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its seal."""
    return {**value, SEAL: _hash(strict_json.dumps(value).encode())}


def changed(path: Path) -> bool:
    """Whether a JSON record that can be read was sealed, and is another one now."""
    value = strict_json.parsed(content(path))
    return SEAL in value and sealed({key: item for key, item in value.items() if key != SEAL}) != value


def read_yaml(path: Path, schema: Mapping[str, Any]) -> dict[str, Any]:
    """A YAML record of plain values. Tags of Python and aliases, which can grow without end, are not read."""
    import yaml  # late: 20 ms

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    data = content(path)
    try:
        depth = 0
        for event in yaml.parse(data, loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST or isinstance(event, yaml.AliasEvent):
                raise Damaged(path, "it has aliases" if depth <= DEEPEST else "it is nested too deeply")
        value = yaml.load(data, loader)
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, Damaged):
            raise
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise Damaged(path, f"it is no YAML{where} ({getattr(error, 'problem', None) or first_line(error)})") from error
    value = _fitting(path, value, schema)
    if odd := _odd(value) or next(
        (f"it has the key {key}, which no run writes" for key in NEVER if key in value), None
    ):
        raise Damaged(path, odd)
    return value


def read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of an .npz file by name: numbers and texts, no objects, each of the size that the file has for it."""
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(io.BytesIO(content(path))) as archive:
            infos = archive.infolist()
            if sum(info.file_size for info in infos) > MOST_BYTES[".npz"]:
                raise Damaged(path, f"it unpacks to more than {MOST_BYTES['.npz']} bytes")
            return {info.filename.removesuffix(".npy"): _array(archive.read(info)) for info in infos}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OverflowError, SyntaxError) as error:
        if isinstance(error, Damaged):
            raise
        raise Damaged(path, f"its arrays cannot be read ({first_line(error)})") from error


def inside(folder: Path, name: object) -> Path:
    """The place below `folder` that a record in it names. Damaged where the name leads out of the folder."""
    text = str(name)
    place = folder / text
    if not text or PurePosixPath(text).is_absolute() or not place.resolve().is_relative_to(folder.resolve()):
        raise Damaged(folder, f"a record in it names '{text}', which is not in it")
    return place


def file_hash(path: Path) -> str | None:
    """sha256 of a file's bytes; None where there is none that can be read."""
    try:
        return _hash(content(path))
    except (FileNotFoundError, Damaged):
        return None


def _fitting(path: Path, value: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    if found := fault(value, schema, ""):
        raise Damaged(path, found)
    return dict(value)


def _odd(value: Any, where: str = "") -> str | None:
    """What in a YAML file is no plain value: a date, bytes, a set, a key that is no text."""
    if isinstance(value, dict):
        if odd := [key for key in value if not isinstance(key, str | int)]:
            return f"{where} has the key {odd[0]!r}".strip()
        return next(filter(None, (_odd(item, f"{where}.{key}".strip(".")) for key, item in value.items())), None)
    if isinstance(value, list):
        return next(filter(None, (_odd(item, f"{where}.{index}") for index, item in enumerate(value))), None)
    if isinstance(value, int) and abs(value) > strict_json.LARGEST:
        return f"{where} is a whole number of more than 64 bits"
    plain = value is None or isinstance(value, str | int | float | bool)
    return None if plain else f"{where} is a {type(value).__name__}, no plain value"


def _array(data: bytes) -> Any:
    """The array of one .npy file. Its header is believed only where the bytes behind it are as many as it says."""
    from numpy.lib import format as npy

    stream = io.BytesIO(data)
    major, _ = npy.read_magic(stream)
    read_header = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError(f"an array {list(shape)} {dtype} in {len(data)} bytes")
    stream.seek(0)
    return npy.read_array(stream, allow_pickle=False)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
