"""The run folder: created exclusively, locked while its run lives, finished with result.json. Layer 1.

It is the truth about a run; every other view is derived from it. Nothing in it names its own place, so that a
moved folder still evaluates and resumes.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from fewshot import __version__, records, schema, signature
from fewshot.construct import refuse_foreign
from fewshot.engine import lock, strict_json
from fewshot.engine.code_version import code_version
from fewshot.engine.durable import replace, reported, sync
from fewshot.errors import FewshotError, InputError
from fewshot.metrics_file import MetricsFile
from fewshot.printable import printable
from fewshot.version_0_1 import of_this_version

if TYPE_CHECKING:
    from filelock import BaseFileLock

_CHECKPOINT = re.compile(r"best|last|[0-9]+")
RECORDS = ("config.yaml", "classes.json", "metrics.jsonl", "episodes/test.npz", "episodes/shown.npz")


class Listed(NamedTuple):
    """What `RunFolder.listed` tells of a run."""

    path: Path
    identity: str  # hash of the resolved configuration
    finished: bool


class FolderInUse(InputError):
    """A living process holds the run folder."""


class RunFolder:
    """`<root>/<name>/<unique id>/`, or `<sweep>/<identity>/`. The constructor is for reading; `create`, `claim` and
    `open` lock it to write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: BaseFileLock | None = None
        self._locked_file: os.stat_result | None = None
        self.metrics = MetricsFile(path / "metrics.jsonl")

    @classmethod
    def create(cls, parent: Path, config_yaml: str, identity: str, **about: Any) -> Self:
        """Make a new folder below `parent`, never one that exists, and lock it. InputError where it cannot be written.

        about: what run.json is to say besides its identity.
        """
        with reported(parent, InputError):
            parent.mkdir(parents=True, exist_ok=True)
            run = cls(_new_folder(parent))
            try:
                run._take_lock()
                run._begin(config_yaml, identity, about)
            except OSError:
                run.close()
                shutil.rmtree(run.path, ignore_errors=True)
                raise
        return run

    @classmethod
    def claim(cls, path: Path, config_yaml: str, identity: str, **about: Any) -> Self:
        """The folder of a run whose place is fixed (a sweep's job): made, or what a killed process has left; locked.

        FolderInUse while a living process holds it: two processes never write in one folder.
        """
        with reported(path, InputError):
            path.mkdir(parents=True, exist_ok=True)
        run = cls._locked(path)
        if not (path / "run.json").exists():
            with reported(path, InputError):
                run._begin(config_yaml, identity, about)
        return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """Lock an existing folder, to go on with its run. FolderInUse while a living process holds it."""
        if not (path / "run.json").exists():
            raise InputError(f"{path} is not a run folder (it has no run.json); give the folder of one run")
        return cls._locked(path)

    @classmethod
    def newest_unfinished(cls, parent: Path, identity: str) -> Self | None:
        """The newest unfinished folder of this identity that no living process holds, locked; or None."""
        for path, other, finished in cls.listed(parent):
            if other == identity and not finished:
                with contextlib.suppress(InputError):
                    run = cls.open(path)
                    if not run.finished:  # it may have finished between the look and the lock
                        return run
                    run.close()
        return None

    @staticmethod
    def listed(folder: Path, pattern: str = "*") -> list[Listed]:
        """The runs whose folders match the pattern below `folder`, newest first."""
        found: list[tuple[str, Listed]] = []
        for file in folder.glob(f"{pattern}/run.json"):
            with contextlib.suppress(OSError, InputError):  # no run, or killed at its start
                info, path = records.read_json(file, schema.RUN), file.parent
                found.append((info["created"], Listed(path, info["identity"], RunFolder(path).finished)))
        return [run for _, run in sorted(found, reverse=True)]

    @property
    def checkpoints(self) -> Path:
        """The folder for `fewshot.checkpoint`."""
        return self.path / "checkpoints"

    @property
    def episodes(self) -> Path:
        """The folder for what each test episode gave."""
        return self.path / "episodes"

    @property
    def figures(self) -> Path:
        """The folder for curves and pictures."""
        return self.path / "figures"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "result.json").exists()

    @property
    def in_use(self) -> bool:
        """Whether a living process holds it."""
        return lock.held(self.path / "lock")

    @property
    def about(self) -> dict[str, Any]:
        """run.json: the run's identity, when and with which version it began, `names` of what was chosen for it.

        InputError where there is none, or it is damaged; so are those below.
        """
        with self._there("run.json"):
            return records.read_json(self.path / "run.json", schema.RUN)

    @property
    def config(self) -> dict[str, Any]:
        """config.yaml, which is resolved and plain."""
        return of_this_version(self.stored_config)

    @property
    def stored_config(self) -> dict[str, Any]:
        """config.yaml in the keys of the version that wrote it."""
        with self._there("config.yaml"):
            return records.read_yaml(self.path / "config.yaml", schema.CONFIG)

    @property
    def training_config(self) -> dict[str, Any]:
        """`config`, with all that a training's has."""
        config = self.config
        if found := schema.fault(config, schema.TRAINING, ""):
            raise records.Damaged(self.path / "config.yaml", found)
        return config

    @property
    def own(self) -> bool:
        """Whether this user made the run: see `fewshot.signature`."""
        with contextlib.suppress(OSError, InputError):
            return signature.is_own(records.content(self.path / "config.yaml"), self.about.get("signature"))
        return False

    def refuse_foreign_code(self, config: Mapping[str, Any], groups: Iterable[str]) -> None:
        """InputError where these groups of the run's configuration name code, and this user has not made the run."""
        if not self.own:
            for group in groups:
                refuse_foreign(config.get(group), group, printable(self.path))

    @property
    def classes(self) -> dict[str, Any] | None:
        """classes.json: names of all classes that its weights were trained on (`train`) and more, see `leaks`; None
        where the run did not keep them (version 0.1)."""
        file = self.path / "classes.json"
        return records.read_json(file, schema.CLASSES, names=True) if file.exists() else None

    def keep_classes(self, classes: Mapping[str, Any]) -> None:
        """Store what `classes` gives back."""
        with reported(self.path, FewshotError):
            replace(self.path / "classes.json", (json.dumps(classes, indent=0) + "\n").encode())

    @property
    def tested_with(self) -> str:
        """best or last: the checkpoint that a finished run was tested with; of an unfinished one the last."""
        which = str(self.result()["protocol"].get("checkpoint_rule", "last")) if self.finished else "last"
        if not _CHECKPOINT.fullmatch(which):
            raise records.Damaged(self.path / "result.json", f"protocol.checkpoint_rule is {which}, no checkpoint")
        return which

    def weights(self, which: str) -> str:
        """Hash of the tensors in a checkpoint (best, last or a step), wherever the folder lies.

        InputError where there is no such checkpoint.
        """
        step = which
        with contextlib.suppress(OSError, InputError, UnicodeDecodeError):
            step = records.content(self.checkpoints / which).decode("ascii").strip()  # a pointer; else a step's folder
        try:
            if not _CHECKPOINT.fullmatch(step):
                raise FileNotFoundError(step)
            manifest = records.content(self.checkpoints / step / "manifest.json")
        except OSError as error:
            raise InputError(f"{self.path} has no checkpoint '{which}'; choose another with checkpoint=") from error
        try:
            return str(json.loads(manifest)["files"]["state.safetensors"]["sha256"])
        except (ValueError, LookupError, TypeError, RecursionError):  # damaged: whoever loads it says so
            return hashlib.sha256(manifest).hexdigest()

    def result(self) -> dict[str, Any]:
        """The content of result.json. FewshotError where the run is not finished, InputError where it is damaged."""
        try:
            return records.read_json(self.path / "result.json", schema.RESULT)
        except FileNotFoundError as error:
            raise FewshotError(f"{self.path} has no result.json: its run is not finished; resume it") from error
        except InputError as error:
            raise InputError(f"{error}; remove it, and the command that made the run tests it again") from error

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Store the result, whole or not at all; with it the run is finished. Keys keep their order.

        Its last keys are the hashes of the other records, and its own: what is changed afterwards is found.
        """
        files = {name: found for name in RECORDS if (found := records.file_hash(self.path / name))}
        self.require_there()
        with reported(self.path, FewshotError):
            text = strict_json.dumps(records.sealed({**result, "files": files}), indent=2)
            replace(self.path / "result.json", text.encode())

    @property
    def changed(self) -> list[str]:
        """Names of the records that are others than at the end of the run; of version 0.1 there is nothing to tell."""
        files = self.result().get("files", {})
        now = {name: records.file_hash(self.path / name) for name in RECORDS if name in files}
        differing = [name for name, found in now.items() if found not in (None, files[name])]
        return differing + (["result.json"] if records.changed(self.path / "result.json") else [])

    def keep_file(self, path: Path, data: bytes) -> None:
        """Store one of the run's files, whole or not at all. FewshotError where the disk cannot be written."""
        with reported(self.path, FewshotError):
            path.parent.mkdir(exist_ok=True)
            replace(path, data)

    def require_there(self) -> None:
        """FewshotError where the folder that this process holds was moved or deleted: its record would be in two."""
        if self._locked_file is None:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(self._locked_file, (self.path / "lock").stat()):
                return
        raise FewshotError(
            f"{self.path} was moved or deleted while its run wrote in it; put it back, and the same command goes on"
        )

    def close(self) -> None:
        """Release the lock. A process that dies releases it too."""
        self.metrics.close()
        if self._lock is not None:
            self._lock.release()
        self._lock = self._locked_file = None

    @contextlib.contextmanager
    def _there(self, name: str) -> Iterator[None]:
        """InputError where the record is not there."""
        try:
            yield
        except FileNotFoundError as error:
            raise InputError(f"{self.path} is not a run folder: it has no {name}") from error

    @classmethod
    def _locked(cls, path: Path) -> Self:
        run = cls(path)
        with reported(path, InputError):
            try:
                run._take_lock()
            except BlockingIOError as error:
                raise FolderInUse(f"{path} is in use by a running process; wait for it, or stop it") from error
        return run

    def _begin(self, config_yaml: str, identity: str, about: Mapping[str, Any]) -> None:
        """What every run holds from its start; run.json comes last: it makes this a run."""
        config = config_yaml.encode()
        info = {"identity": identity, "created": datetime.now(UTC).isoformat(), "fewshot": __version__,
                "code": code_version(), **about,
                "signature": signature.sign(config)}  # fmt: skip
        for folder in (self.checkpoints, self.episodes, self.figures):
            folder.mkdir(exist_ok=True)
        replace(self.path / "config.yaml", config)
        replace(self.path / "run.json", (json.dumps(info, indent=2) + "\n").encode())
        sync(self.path.parent)

    def _take_lock(self) -> None:
        self._lock = lock.take(self.path / "lock")
        self._locked_file = (self.path / "lock").stat()


def _new_folder(parent: Path) -> Path:
    """The second alone is not unique: of many runs that start in one, mkdir lets each name pass once."""
    while True:
        path = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
