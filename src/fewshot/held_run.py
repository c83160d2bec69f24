"""A run folder that this process holds: created exclusively, locked while its run lives, finished with result.json.

Layer 1. What it holds is read with `fewshot.run_folder`.
"""

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fewshot import __version__, records, signature
from fewshot.engine import lock, strict_json
from fewshot.engine.code_version import code_version
from fewshot.engine.durable import replace, reported, sync
from fewshot.errors import FewshotError, InputError
from fewshot.run_folder import RECORDS, RunFolder

if TYPE_CHECKING:
    from filelock import BaseFileLock


class FolderInUse(InputError):
    """A living process holds the run folder."""


class HeldRun(RunFolder):
    """`create`, `claim` and `open` make one; a folder is written by the one process that holds it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock: BaseFileLock | None = None
        self._locked_file: os.stat_result | None = None

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

    def keep_classes(self, classes: Mapping[str, Any]) -> None:
        """Store what `classes` gives back."""
        with reported(self.path, FewshotError):
            replace(self.path / "classes.json", (json.dumps(classes, indent=0) + "\n").encode())

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Store the result, whole or not at all; with it the run is finished. Keys keep their order.

        Its last keys are the hashes of the other records, and its own: what is changed afterwards is found.
        """
        files = {name: found for name in RECORDS if (found := records.file_hash(self.path / name))}
        self.require_there()
        with reported(self.path, FewshotError):
            text = strict_json.dumps(records.sealed({**result, "files": files}), indent=2)
            replace(self.path / "result.json", text.encode())

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
