"""Raw files of a data set: read out of a zip or tar.gz in memory, and fetched whole or not at all. Layer 1."""

import functools
import hashlib
import http.client
import lzma
import os
import queue
import re
import stat
import sys
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from fewshot.errors import InputError

MAX_RATIO = 200  # deflate can reach 1032; pictures hardly pass 1
SLACK = 1 << 20  # a small file of one colour may be packed as tightly as it likes
CHUNK = 1 << 20

# What zipfile raises on damaged, encrypted and unsupported archives.
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError)
ENDINGS = (".tar.gz", ".tgz", ".zip")


class Published(NamedTuple):
    """A zip or tar.gz that somebody publishes: where, how many bytes, which hash."""

    url: str
    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.url} ({self.size} bytes, sha256 {self.sha256})"

    def find(self, folders: Iterable[Path]) -> Path | None:
        """The archive in one of the folders, or the folder unpacked from it there; the first of them."""
        packed = PurePosixPath(self.url).name
        unpacked = next(packed.removesuffix(ending) for ending in ENDINGS if packed.endswith(ending))
        paths = (folder / name for folder in folders for name in (packed, unpacked))
        return next((path for path in paths if path.exists()), None)


def obtain(files: Sequence[Published], folders: Sequence[Path], *, fetch: bool) -> list[Path]:
    """Where each of the files is; with `fetch`, one that is in none of the folders is loaded into the first.

    InputError where that is not possible: it says why, and which files have to be put where by hand.
    """
    why = ""
    missing = [file for file in files if not file.find(folders)]
    try:
        for file in missing if fetch else ():
            target = folders[0] / PurePosixPath(file.url).name
            download(file.url, target, size=file.size, sha256=file.sha256)
    except InputError as error:
        why = f" and cannot be downloaded ({error})"
    missing = [file for file in files if not file.find(folders)]
    if missing:
        raise InputError(
            f"raw files are missing{why}; put {' and '.join(map(str, missing))} into {folders[0]}, "
            "or set data_dir to the folder that has them"
        )
    return [path for file in files if (path := file.find(folders))]


def fingerprint(path: Path) -> str:
    """What a file is, for a message: size and hash, or why it cannot be read."""
    try:
        with path.open("rb") as file:
            return f"{path.stat().st_size} bytes, sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        return str(error.strerror)


def read_members(
    source: Path, suffix: str, *, limit: int, damaged: list[str] | None = None
) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file whose name ends in `suffix`, of a zip, a tar.gz, or the folder unpacked from it.

    Names have forward slashes; hidden files and what macOS adds to a zip are left out. A zip is looked
    through before anything is read, a tar.gz member by member: one that points out of it, is a link, or takes
    the sum beyond `limit` bytes or MAX_RATIO raises InputError with its name. A file that cannot be read raises
    InputError, or, where a list `damaged` is given, is noted there and left out.
    """
    for name, read in _members(source, limit):
        if not name.endswith(suffix) or _is_hidden(name):
            continue
        try:
            content = read()
        except DAMAGE as error:
            what = f"{name} cannot be read ({error})"
            if damaged is None:
                raise InputError(f"{source}: {what}") from error
            damaged.append(what)
        else:
            yield name, content


def _members(source: Path, limit: int) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and reader of each file in the zip or folder `source`."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                yield path.relative_to(source.parent).as_posix(), path.read_bytes
        return
    if source.name.endswith(ENDINGS[:2]):
        yield from _tar_members(source, limit)
        return
    try:
        archive = zipfile.ZipFile(source)
    except DAMAGE as error:
        raise InputError(f"{source} is not a whole zip archive ({error})") from error
    with archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        _refuse_unsafe(source, infos, limit)
        for info in infos:
            yield info.filename, functools.partial(_unpack, archive, info)


def _tar_members(source: Path, limit: int) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """As `_members`; each must be read, if at all, before the next is asked for."""
    most, total = min(limit, MAX_RATIO * source.stat().st_size + SLACK), 0
    try:
        with tarfile.open(source, "r|gz") as archive:
            for info in archive:
                total += info.size
                link = stat.S_IFLNK if info.issym() or info.islnk() else 0
                kind = link or (0 if info.isfile() or info.isdir() else stat.S_IFIFO)
                if reason := _unsafe(info.name, kind) or _too_much(total, most, source.stat().st_size):
                    raise InputError(f"{source} is refused: member '{info.name}' {reason}")
                if info.isfile():
                    yield info.name, functools.partial(_untar, archive, info)
    except DAMAGE as error:
        raise InputError(f"{source} is not a whole tar.gz archive ({error})") from error


def _untar(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    assert file is not None
    content = file.read()
    if len(content) != info.size:
        raise EOFError(f"{len(content)} of {info.size} bytes")
    return content


def _unsafe(name: str, kind: int) -> str | None:
    """Why a member of this name and kind (of `stat`, 0 where unknown) may not be in an archive."""
    name = name.replace("\\", "/")
    if re.match("/|[A-Za-z]:", name):
        return "has an absolute name"
    if ".." in name.split("/"):
        return "points out of the archive"
    if kind not in (0, stat.S_IFREG):
        return "is a link" if kind == stat.S_IFLNK else "is not an ordinary file"
    return None


def _too_much(total: int, most: int, packed: int) -> str | None:
    return f"brings the archive of {packed} bytes to {total} bytes" if total > most else None


def _is_hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".") or name.startswith("__MACOSX/")


def _refuse_unsafe(source: Path, members: list[zipfile.ZipInfo], limit: int) -> None:
    packed, total = source.stat().st_size, 0
    most = min(limit, MAX_RATIO * packed + SLACK)  # the packed size too: members may overlap
    for info in members:
        total += info.file_size
        reason = _unsafe(info.filename, stat.S_IFMT(info.external_attr >> 16))
        if not reason and info.file_size > MAX_RATIO * info.compress_size + SLACK:
            reason = f"expands from {info.compress_size} to {info.file_size} bytes (limit {MAX_RATIO} times)"
        if reason := reason or _too_much(total, most, packed):
            raise InputError(f"{source} is refused: member '{info.filename}' {reason}")


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The member's content, of exactly the size its header names: a larger one is never unpacked."""
    with archive.open(info) as file:
        content = file.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise EOFError(f"{len(content)} of {info.file_size} bytes")
    return content


def download(url: str, path: Path, *, size: int, sha256: str, timeout: float = 10.0) -> None:
    """Fetch `url` to `path`; the file appears there only when its size (bytes) and hash are right.

    timeout: seconds for the answer to begin; half of it for each address of the host and for each pause
    within the answer. There is no second attempt.
    Raises InputError that says what went wrong; nothing is left behind then.
    """
    print(f"downloading {url} ({size / 1e6:.1f} MB)", file=sys.stderr, flush=True)
    try:
        response = _connect(url, timeout)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = str(error).removeprefix("<urlopen error ").removesuffix(">")
        raise InputError(f"{url}: {reason}") from error
    with response:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        except OSError as error:
            raise InputError(f"cannot write to {path.parent}: {error.strerror}") from error
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                _receive(response, file, url, size, sha256)
            partial.chmod(0o644)  # mkstemp's 0600 would hide a shared data folder from everybody else
            partial.replace(path)
        except OSError as error:
            raise InputError(f"cannot store {path}: {error.strerror or error}") from error
        finally:
            partial.unlink(missing_ok=True)


def _connect(url: str, timeout: float) -> Any:
    """urlopen gives each address of a host its own timeout and the name service none; this bounds the sum."""
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def connect() -> None:
        try:
            outcome.put(urllib.request.urlopen(url, timeout=timeout / 2))
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        answer = outcome.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError(f"no answer within {timeout:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _receive(response: Any, file: IO[bytes], url: str, size: int, sha256: str) -> None:
    """Copy the answer to `file`, and never more than one byte beyond its size; check size and hash."""
    digest, received = hashlib.sha256(), 0
    while received <= size:
        try:
            chunk = response.read(min(CHUNK, size + 1 - received))
        except (OSError, http.client.HTTPException) as error:
            raise InputError(f"{url}: broke off after {received} of {size} bytes ({error})") from error
        if not chunk:
            break
        digest.update(chunk)
        file.write(chunk)
        received += len(chunk)
    if received != size:
        count = f"more than {size}" if received > size else f"{received} of {size}"
        raise InputError(f"{url}: got {count} bytes; nothing was kept")
    if digest.hexdigest() != sha256:
        raise InputError(f"{url}: found sha256 {digest.hexdigest()}, expected {sha256}; nothing was kept")
    file.flush()
    os.fsync(file.fileno())
