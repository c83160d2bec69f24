"""When two runs are the same run, and in what they differ, by their configurations. Layer 2; imports no torch."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot.errors import InputError
from fewshot.run_folder import RunFolder

# What may differ between two runs of one identity: where things lie, what shows them, what they run on. Whole paths,
# each with all keys below it: `name` is the run's own name, and a user's `backbone.name` is not on the list.
OUTSIDE_IDENTITY = (
    "logger", "data_dir", "dataset.data_dir", "cache_dir", "dataset.cache_dir", "output_dir", "device", "threads",
    "resume", "name", "trust", "trainer.cuda_graph", "trainer.profile",
)  # fmt: skip


def identity(config: Mapping[str, Any]) -> str:
    """Twelve hex digits that are equal exactly for runs that compute the same."""
    return digest(computing(config))


def with_init_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """A training's configuration with the hash of the weights that `init` names, where it names a run."""
    if not config["init"]:
        return dict(config)
    run = RunFolder(Path(config["init"]))
    if not run.finished or not any(run.checkpoints.glob("*")):
        raise InputError(f"init={run.path} is not the folder of a finished training run; choose one that has ended")
    return {**config, "init_weights": run.weights(run.tested_with)}


def with_content(config: Mapping[str, Any], content: str | None) -> dict[str, Any]:
    """The configuration with the hash of a user's own pictures: with others it is another run. None: no such set."""
    rest = {key: value for key, value in config.items() if key != "dataset_content"}  # of the run that is evaluated
    return rest if content is None else {**rest, "dataset_content": content}


def evaluation_identity(config: Mapping[str, Any]) -> str:
    """The identity of an evaluation: it is one of certain weights, wherever they lie."""
    run = RunFolder(Path(config["run"]))
    which = run.tested_with if config["checkpoint"] is None else str(config["checkpoint"])
    return identity({**config, "run": None, "checkpoint": run.weights(which)})


def edited(run: RunFolder) -> bool:
    """Whether the config.yaml of a training is another one than the run began with, in what its numbers depend on.

    Of an evaluation, whose identity is of its run's weights, and of version 0.1 it cannot be told.
    """
    config = run.stored_config
    return not {"run", "train_shift"} & config.keys() and identity(config) != run.about["identity"]


def computing(config: Mapping[str, Any]) -> dict[str, Any]:
    """Path -> value of every key that a run's numbers may depend on; of `init` what counts is the weights' hash."""
    flat = {key: value for key, value in flatten(config).items() if not outside(key)}
    if flat.get("init_weights"):
        flat.pop("init", None)
    return flat


def outside(key: str) -> bool:
    """Whether a key, such as `dataset.cache_dir` or the group `logger`, leaves the numbers as they are."""
    parts = re.split("[./@]", key)
    paths = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return not paths.isdisjoint(OUTSIDE_IDENTITY)


def digest(value: Any) -> str:
    """Twelve hex digits of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differing_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """`key: theirs -> ours` for what differs between two configurations within their identity."""
    a, b = computing(ours), computing(theirs)
    return [f"{k}: {b.get(k)} -> {a.get(k)}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
