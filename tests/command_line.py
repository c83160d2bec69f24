"""The command line as tests use it: in this process, where a start of torch is saved, or as a user starts it."""

import contextlib
import importlib
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from fewshot.cli import main

SCRIPT = Path(sys.executable).with_name("fewshot")
# A run of a second, of half a second with algorithm=protonet: four steps, validated and saved at every other one.
TINY = [
    "threads=1", "queries=2", "backbone.blocks=2", "backbone.filters=8", "algorithm.stream.tasks=2", "trainer.steps=4",
    "trainer.log_every=1", "trainer.val_every=2", "trainer.checkpoint_every=2", "evaluation.episodes=20",
    "evaluation.val_episodes=10", "evaluation.tasks=20",
]  # fmt: skip
QUIET = [*TINY, "logger=console"]
REFERENCES: dict[tuple[str, ...], Any] = {}  # of our own YAML files, the same for every Hydra of this process


class Done(NamedTuple):
    code: int
    out: str
    err: str


def call(*words: str, cwd: Path) -> Done:
    """`fewshot WORDS` in this process, in the folder `cwd`; what it changes of the process is put back.

    It draws no figures, which take longer than the run: the run of `conftest.trained` does, and tests/report. Nor does
    it compose what is known already, which takes as long: `hydra.mode`, null unless it is set, and references.
    """
    out, err = io.StringIO(), io.StringIO()
    known, threads = set(sys.modules), torch.get_num_threads()
    root = logging.getLogger()  # Hydra's --info logs everything to standard output
    level, handlers = root.level, list(root.handlers)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["fewshot", *words])
        patch.setattr(sys, "path", list(sys.path))
        patch.setenv("HYDRA_FULL_ERROR", "1")
        patch.setattr("fewshot.report.figures.draw_finished", lambda folder: None)
        if not any("hydra.mode" in word for word in words):
            patch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda *_, **__: None)
        if words[:1] == ("train",) and not any(word.startswith("--config-dir") for word in words):
            patch.setattr("fewshot.cli.reference._COMPOSED", SimpleNamespace(setdefault=lambda *_: REFERENCES))
        importlib.invalidate_caches()
        main(list(words))
    torch.set_num_threads(threads)
    root.setLevel(level)
    root.handlers[:] = handlers
    for name in set(sys.modules) - known:  # the user's own modules, which other tests name alike
        module = sys.modules[name]
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]  # a namespace has paths alone
        if any(str(place).startswith(str(cwd)) for place in places):
            del sys.modules[name]
    code = ended.value.code
    return Done(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


def start(*words: str, cwd: Path, **environment: str) -> Done:
    """The console script in a process of its own."""
    done = subprocess.run(
        [SCRIPT, *words], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    return Done(done.returncode, done.stdout, done.stderr)


def succeed(*words: str, cwd: Path) -> Done:
    done = call(*words, cwd=cwd)
    assert done.code == 0, done.err
    return done


def refusal(*words: str, cwd: Path, code: int = 2) -> str:
    """The one line, without `error: `, that a command which fails has on stderr."""
    done = call(*words, cwd=cwd)
    assert done.code == code, (done.err, done.out)
    line, *more = done.err.splitlines()
    assert not more, done.err
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def only(folder: Path, pattern: str = "*/*") -> Path:
    """The one run below outputs/VERB."""
    (path,) = folder.glob(pattern)
    return path


def result(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def episodes(run: Path) -> dict[str, Any]:
    """test.npz as plain lists, which compare by ==."""
    with np.load(run / "episodes" / "test.npz") as arrays:
        return {name: arrays[name].tolist() for name in arrays}
