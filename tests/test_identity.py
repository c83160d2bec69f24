"""An identity without Hydra: where a run's first weights lie does not matter, what they are does."""

import json
from pathlib import Path
from typing import Any

import pytest
from toy_data import RESULT

from fewshot.errors import InputError
from fewshot.identity import differing_keys, evaluation_identity, identity, with_init_weights


def finished(path: Path, weights: str, step: str = "7") -> Path:
    """A finished run's folder, as far as an identity looks into it."""
    checkpoint = path / "checkpoints" / step
    checkpoint.mkdir(parents=True)
    (path / "checkpoints" / "best").write_text(f"{step}\n")
    manifest = {"files": {"state.safetensors": {"sha256": weights}, "state.json": {"sha256": str(path)}}}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    (path / "result.json").write_text(json.dumps(RESULT))
    return path


def config(init: Path | None, **changes: Any) -> dict[str, Any]:
    return {"ways": 5, "init": None if init is None else str(init), "init_part": None} | changes


def test_init_counts_by_the_hash_of_the_weights(tmp_path: Path) -> None:
    a, copy, other = (finished(tmp_path / name, weights) for name, weights in (("a", "x"), ("copy", "x"), ("b", "y")))
    of = [identity(with_init_weights(config(path))) for path in (a, copy, other, None)]
    assert of[0] == of[1]
    assert len(set(of)) == 3
    assert identity(with_init_weights(config(a, init_part="backbone"))) != of[0]
    assert differing_keys(with_init_weights(config(a)), with_init_weights(config(copy))) == []
    differ = differing_keys(with_init_weights(config(a)), with_init_weights(config(other)))
    assert differ == ["init_weights: y -> x"]


def test_a_stored_configuration_needs_no_folder(tmp_path: Path) -> None:
    """The folder that a run started from may be gone: its own config.yaml keeps the hash."""
    stored = with_init_weights(config(finished(tmp_path / "a", "x")))
    assert identity({**stored, "init": "/gone"}) == identity(stored)


def test_an_evaluation_is_one_of_certain_weights(tmp_path: Path) -> None:
    a, copy, other = (finished(tmp_path / name, weights) for name, weights in (("a", "x"), ("copy", "x"), ("b", "y")))
    of = [evaluation_identity({"run": str(path), "checkpoint": None, "ways": 5}) for path in (a, copy, other)]
    assert of[0] == of[1] != of[2]
    assert evaluation_identity({"run": str(a), "checkpoint": 7, "ways": 5}) == of[0]
    with pytest.raises(InputError, match="has no checkpoint '9'; choose another with checkpoint="):
        evaluation_identity({"run": str(a), "checkpoint": 9, "ways": 5})


def test_refused(tmp_path: Path) -> None:
    (unfinished := finished(tmp_path / "a", "x") / "result.json").unlink()
    for path in (unfinished.parent, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="is not the folder of a finished training run; choose one that has ended"):
            with_init_weights(config(path))
