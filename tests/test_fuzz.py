"""Random damage to every file of a run folder: who reads it gets what was there, or one line."""

import contextlib
import logging
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import QUIET, call, episodes, only, result

from fewshot import assemble, checkpoint
from fewshot.cli.evaluate import _run_config
from fewshot.engine.processes import ALONE
from fewshot.episode import Minibatch
from fewshot.errors import FewshotError
from fewshot.report.documents import csv_file, markdown
from fewshot.report.report import Report
from fewshot.resume import open_resumed
from fewshot.run_folder import RunFolder
from fewshot.trained import restore
from fewshot.trainer import _Run

CASES = 60  # half of them where the slow tests are left out
WORDS = [b"null", b'"x"', b"-1", b"1e999", b"[]", b"{}", b"true", b"", b"\t", b"\x00", b"\xff", b"NaN", b"0", b"99"]


def flipped(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def reworded(data: bytes, draw: random.Random) -> bytes:
    """One word of a text file in the place of another."""
    words = data.split(b" ")
    words[draw.randrange(len(words))] = draw.choice(WORDS)
    return b" ".join(words)


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flipped": flipped,
    "reworded": reworded,
    "torn": lambda data, draw: data[: draw.randrange(len(data) + 1)],
    "empty": lambda data, draw: b"",
    "doubled": lambda data, draw: data + data,
    "random": lambda data, draw: draw.randbytes(200),
    "a hole": lambda data, draw: data[: len(data) // 3] + data[len(data) // 2 :],
    "other JSON": lambda data, draw: draw.choice([b"[]", b"{}", b"null", b'{"a": 1}', b"[" * 5000]),
}
OTHER = ("missing", "a folder", "a pipe")


def damage(path: Path, draw: random.Random) -> str:
    """Damages a file, and says how."""
    kind = draw.choice([*DAMAGE, *OTHER])
    if kind in DAMAGE:
        path.write_bytes(DAMAGE[kind](path.read_bytes(), draw))
        return kind
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    return kind


def damaged_copy(run: Path, to: Path, draw: random.Random, *, finished: bool) -> str:
    """A copy of the run, damaged in one or two files; what was done to it."""
    shutil.copytree(run, to, ignore=shutil.ignore_patterns("wandb", "figures", "lock"))
    if not finished:
        (to / "result.json").unlink()
    files = sorted(path for path in to.rglob("*") if path.is_file())
    chosen = draw.sample(files, draw.choice((1, 1, 2)))
    return ", ".join(f"{path.relative_to(to)} {damage(path, draw)}" for path in chosen)


@contextlib.contextmanager
def one_line_or_right(what: str) -> Iterator[None]:
    """Whatever is raised is one line for the user, within seconds."""

    def late(*_: object) -> None:
        raise TimeoutError(what)

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        yield
    except FewshotError as error:
        assert str(error).strip(), what
        assert "\n" not in str(error), what
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


class Undrawn:
    """The batches of a run that is only resumed."""

    def batch(self, k: int) -> Minibatch:
        raise AssertionError(f"batch {k} was drawn")


@pytest.mark.parametrize("seeds", [range(CASES // 2), pytest.param(range(CASES // 2, CASES), marks=pytest.mark.slow)])
def test_reading_a_damaged_folder(
    tmp_path: Path, trained: Path, caplog: pytest.LogCaptureFixture, seeds: range
) -> None:
    """`report`, `evaluate` and resume, as far as they read."""
    intact = RunFolder(trained)
    config, names = intact.config, intact.about["names"]
    told, weights = intact.result(), restore(trained).algorithm.state_dict()
    states = {step: checkpoint.load(intact.checkpoints, step)[1] for step in (2, 4)}
    trainer, algorithm = assemble.make_trainer(config), restore(trained).algorithm
    seen = set[str]()
    for seed in seeds:
        draw, here = random.Random(seed), tmp_path / str(seed)
        finished = draw.random() < 0.6
        what = f"seed {seed}: {damaged_copy(trained, here, draw, finished=finished)}"
        caplog.clear()
        with one_line_or_right(f"report, {what}"):
            report = Report([trained, here])
            assert f"{told['test']['accuracy']:.2f} ± " in markdown(report), what
            assert str(trained) in csv_file(report.runs), what
            _ = [run.shown for run in report.runs]
            for run in report.finished:
                if not run.changed:
                    assert run.result == told, what
                    seen.add("reported")
            seen.update(["left out"] if report.left_out else [])
        with one_line_or_right(f"evaluate, {what}"):
            ours = {**_run_config(here, [], trust=False), "logger": None}
            model = restore(here)
            said = "was edited since the run began" in caplog.text
            assert said or all(ours[key] == config[key] for key in ("ways", "algorithm", "backbone", "evaluation")), (
                what
            )
            assert said or finished is False or same(model.algorithm.state_dict(), weights), what
            _ = RunFolder(here).classes
            seen.add("evaluated")
        if not finished:
            with one_line_or_right(f"resume, {what}"):
                folder = open_resumed(here.parent / "none", {**config, "resume": str(here)}, names)
                run = _Run(trainer, algorithm, Undrawn(), folder, {}, torch.device("cpu"), None, ALONE)
                try:
                    state = run._stored()
                finally:
                    folder.close()
                if state is not None:
                    assert same(state["model"], states[state["progress"]["step"]]["model"]), what
                    rows = folder.metrics.read()
                    whole = [r["step"] for r in rows] == list(range(1, state["progress"]["step"] + 1))
                    assert whole or "missing, doubled or changed" in caplog.text, what
                    seen.add("resumed")
        shutil.rmtree(here)
    assert seen == {"reported", "left out", "evaluated", "resumed"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_whole_commands_on_a_damaged_folder(
    tmp_path: Path, trained: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ends with the number of the intact run, or with one line, and a report shows the other run in any case."""
    monkeypatch.setattr(logging, "lastResort", None)
    draw = random.Random(1000 + seed)
    bad, intact = tmp_path / "runs" / "bad", result(trained)
    what = damaged_copy(trained, bad, draw, finished=True)
    shutil.copytree(trained, tmp_path / "runs" / "good")
    right = f"{intact['test']['accuracy']:.2f} ± {intact['test']['accuracy_ci95']:.2f}"
    done = call("report", "runs", "--html", "r.html", "--csv", "r.csv", cwd=tmp_path)
    assert (done.code, done.err) == (0, ""), what
    assert right in done.out, what
    done = call("evaluate", "run=runs/bad", "threads=1", cwd=tmp_path)
    assert "Traceback" not in done.err, what
    if done.code == 0 and RunFolder(bad).training_config == RunFolder(trained).training_config:
        assert episodes(only(tmp_path / "outputs" / "evaluate")) == episodes(trained), what
    (bad / "result.json").unlink() if (bad / "result.json").is_file() else None
    done = call("train", *QUIET, f"resume={bad}", cwd=tmp_path)
    assert "Traceback" not in done.err, what
    if done.code == 0 and (bad / "result.json").is_file():
        assert result(bad)["test"] == intact["test"], what
