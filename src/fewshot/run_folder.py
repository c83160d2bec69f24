"""The run folder, read. Layer 1.

It is the truth about a run; every other view is derived from it. Nothing in it names its own place, so that a
moved folder still evaluates and resumes. `fewshot.held_run` writes it.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fewshot import records, schema, signature
from fewshot.construct import refuse_foreign
from fewshot.engine import lock
from fewshot.engine.durable import replace, reported
from fewshot.errors import FewshotError, InputError
from fewshot.metrics_file import MetricsFile
from fewshot.printable import printable
from fewshot.version_0_1 import of_this_version

_CHECKPOINT = re.compile(r"best|last|[0-9]+")
RECORDS = ("config.yaml", "classes.json", "metrics.jsonl", "episodes/test.npz", "episodes/shown.npz")


class Listed(NamedTuple):
    """What `RunFolder.listed` tells of a run."""

    path: Path
    identity: str  # hash of the resolved configuration
    finished: bool


class RunFolder:
    """`<root>/<name>/<unique id>/`, or `<sweep>/<identity>/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = MetricsFile(path / "metrics.jsonl")

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
        if file.exists():
            return records.read_json(file, schema.CLASSES, names=True)
        if self.finished and file.name in self.result().get("files", {}):
            raise records.Damaged(file, "it is gone, and with it what the run was trained on")
        return None

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

    @contextlib.contextmanager
    def _there(self, name: str) -> Iterator[None]:
        """InputError where the record is not there."""
        try:
            yield
        except FileNotFoundError as error:
            raise InputError(f"{self.path} is not a run folder: it has no {name}") from error
