"""Run folders, read. Layer 5."""

import contextlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fewshot import records, shown
from fewshot.errors import FewshotError, InputError
from fewshot.identity import computing
from fewshot.printable import all_printable
from fewshot.run_folder import RunFolder


class Network(NamedTuple):
    """A run's backbone."""

    name: str
    parameters: int | None  # None: a run of version 0.1 did not write it down
    image_size: str  # `28x28`; empty where it is not known

    @property
    def text(self) -> str:
        """`conv4_32 29k 28x28`."""
        count = self.parameters
        weights = "" if count is None else f"{count / 1e6:.1f}M" if count >= 1e6 else f"{max(1, round(count / 1e3))}k"
        return " ".join(filter(None, [self.name, weights, self.image_size]))


class RunRecord:
    """One run folder of `train` or `evaluate`, finished or not; files are read when they are first needed."""

    def __init__(self, path: Path) -> None:
        self.path, self._folder = path, RunFolder(path)
        self.finished = self._folder.finished

    @property
    def name(self) -> str:
        """The run's name; of a sweep's job whatever it was called, else the folder that holds the run's."""
        return str(self.result["name"] if self.finished else self.config.get("name") or self.path.parent.name)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """config.yaml, which is resolved and plain; empty where a kill came before it."""
        return all_printable(self._folder.stored_config) if (self.path / "config.yaml").exists() else {}

    @cached_property
    def result(self) -> Mapping[str, Any]:
        """result.json. FewshotError where the run is not finished."""
        return self._folder.result()

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl."""
        return self._folder.metrics.read()

    @cached_property
    def episodes(self) -> Mapping[str, np.ndarray]:
        """test.npz: classes [E, N], accuracy [E], step_accuracy [E, S+1] in percent; empty where it is missing."""
        file = self.path / "episodes" / "test.npz"
        if not file.exists():
            return {}
        arrays = records.read_arrays(file)
        episodes = self.result["test"]["episodes"]
        wanted = {"classes": (episodes, None), "accuracy": (episodes,), "step_accuracy": (episodes, None)}
        for name, shape in wanted.items():
            have = arrays[name].shape if name in arrays else None
            if have is None or len(have) != len(shape) or have[0] != episodes:
                said = "missing" if have is None else f"of shape {list(have)}"
                raise records.Damaged(file, f"{name} is {said}, expected {len(shape)} axes, the first of {episodes}")
            if name != "classes" and not (arrays[name].dtype.kind == "f" and np.isfinite(arrays[name]).all()):
                raise records.Damaged(file, f"{name} holds other values than finite numbers")
        return arrays

    @cached_property
    def shown(self) -> list[shown.ShownEpisode]:
        """The episodes kept for pictures."""
        return shown.load(self.path / "episodes" / "shown.npz")

    def check(self) -> None:
        """InputError where a record that a report needs is damaged."""
        if self.finished:
            _ = self.result, self.episodes
        _ = self.config, self.metrics, self._folder.about

    @property
    def changed(self) -> list[str]:
        """Names of the records that were changed after the run's end."""
        return self._folder.changed if self.finished else []

    @property
    def kind(self) -> str:
        """train or evaluate."""
        return "evaluate" if self.config.get("run") or (self.finished and "run" in self.result) else "train"

    @property
    def steps(self) -> int:
        """Outer updates done, as far as the folder tells."""
        return int(self.result["steps"]) if self.finished else int(self.metrics[-1]["step"]) if self.metrics else 0

    @cached_property
    def setting(self) -> dict[str, Any]:
        """What its numbers depend on, but for the seed: path -> value."""
        flat = computing(self.config)
        return {k: v for k, v in flat.items() if k not in ("seed", "run") and k.split(".")[0] != "paper"}

    @property
    def network(self) -> Network:
        """The backbone as result.json names it; in a folder of version 0.1 its class and width, from config.yaml."""
        if stated := self.finished and self.result.get("backbone"):
            sides = "x".join(map(str, stated["image_size"][-2:]))
            return Network(str(stated["name"]), stated["parameters"], sides)
        keys, size = self.config.get("backbone") or {}, (self.config.get("dataset") or {}).get("size")
        name = str(keys.get("_target_", "")).rsplit(".", 1)[-1].lower()
        filters = f"-{keys['filters']}" if "filters" in keys else ""
        return Network(f"{name}{filters}", None, f"{size}x{size}" if size else "")

    def same_network(self, other: "RunRecord") -> bool:
        """Whether both have a backbone of the same configuration, for images of the same size."""
        alike = self.config.get("backbone") == other.config.get("backbone")
        return alike and self.network.image_size == other.network.image_size

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of one key of metrics.jsonl."""
        rows = [(row["step"], float(row[key])) for row in self.metrics if isinstance(row.get(key), int | float)]
        return [step for step, _ in rows], [value for _, value in rows]


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Every run folder (it holds a run.json) at or below the paths, in their order, below each by name and age."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist; give run folders or folders that hold them")
        below = [path] if (path / "run.json").exists() else [f.parent for f in path.rglob("run.json")]
        found += sorted(below, key=lambda folder: (folder.parent, _created(folder), folder.name))
    return list(dict.fromkeys(found))


def read_runs(paths: Iterable[Path]) -> tuple[list[RunRecord], list[str]]:
    """The runs at or below the paths, and what is wrong with those that cannot be read."""
    runs, faults = [], []
    for folder in find_runs(paths):
        try:
            run = RunRecord(folder)
            run.check()
            runs.append(run)
        except FewshotError as error:
            faults.append(str(error))
    return runs, faults


def _created(folder: Path) -> str:
    with contextlib.suppress(OSError, InputError):
        return str(RunFolder(folder).about["created"])
    return ""
