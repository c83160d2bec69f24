"""W&B: the record holds what was logged; no key, no network and no luck cost one warning, never the run."""

import http.server
import inspect
import json
import os
import pty
import select
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb_record
from omegaconf import OmegaConf
from PIL import Image

from fewshot.errors import InputError
from fewshot.loggers.base import RunInfo
from fewshot.loggers.wandb import Wandb, flatten, tags

CONF = Path(__file__).parents[2] / "conf" / "logger" / "wandb.yaml"
KEY = "0123456789" * 4  # of the right form, known to no server
CONFIG = {"algorithm": {"name": "maml", "inner_lr": 0.4}, "seed": 0, "name": None, "shots": [1, 5]}
RESULT = {
    "name": "maml",
    "paper": None,
    "test": {
        "accuracy": 98.61,
        "accuracy_ci95": 0.21,
        "inner_steps": [{"accuracy": 20.0, "accuracy_ci95": 0.4}, {"accuracy": 98.61, "accuracy_ci95": 0.21}],
    },
    "protocol": {"norm_statistics": "batch"},
}

INNER = [{f"test/inner_steps/{key}": value for key, value in mean.items()} for mean in RESULT["test"]["inner_steps"]]


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A user without key, settings or an earlier session, in an empty folder."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.chdir(tmp_path)
    yield
    if (wandb := sys.modules.get("wandb")) is not None:
        wandb.teardown()


def run_info(folder: Path, first_step: int = 0) -> RunInfo:
    return RunInfo(
        folder=folder,
        name="maml_glyphs",
        id="2026 a:1",
        steps=60,
        first_step=first_step,
        config=CONFIG,
        group="a_sweep",
        job_type="train",
        tags=("tag", "", "t" * 65),
        label="algorithm.inner_lr=0.4 seed=0",
    )


def records(folder: Path) -> list[dict[str, list[dict[str, Any]]]]:
    """Per start of the run, oldest first: kind -> the records of W&B's offline file."""
    return [wandb_record.records(run) for run in sorted((folder / "wandb").glob("offline-run-*"))]


def own(row: Mapping[str, Any]) -> dict[str, Any]:
    """Without what W&B adds: _step, _runtime, _timestamp, _wandb."""
    return {key: value for key, value in row.items() if not key.startswith("_")}


def test_offline_record_equals_what_was_logged_also_after_a_resume(tmp_path, capfd):
    rows = {10: {"train/loss": 0.5, "train/accuracy": 75.0}, 20: {"train/loss": 0.25}, 30: {"val/accuracy": 62.5}}
    folder = tmp_path / "a run"
    folder.mkdir()
    for first_step, status, result in [(0, "stopped", None), (30, "finished", RESULT)]:
        logger = Wandb(tags=["mine"])
        logger.start(run_info(folder, first_step))
        for step, row in rows.items():
            logger.log(first_step + step, row)
            logger.progress(first_step + step)
        logger.finish(result, status)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"W&B: offline; to upload: wandb sync '{folder}/wandb'/offline-run-*\n" * 2

    last = {"train/loss": 0.25, "train/accuracy": 75.0, "val/accuracy": 62.5}
    summaries = [
        {**last, "step": 30, "status": "stopped"},
        {**last, "step": 60, "status": "finished", **flatten(RESULT), "test/inner_step": 1, **INNER[1]},
    ]
    for record, first_step, expected in zip(records(folder), (0, 30), summaries, strict=True):
        [started] = record["run"]
        assert own(started["config"]["update"]) == CONFIG
        assert (started["project"], started["run_id"]) == ("fewshot", "2026-a-1")
        assert (started["display_name"], started["run_group"]) == (
            "maml_glyphs algorithm.inner_lr=0.4 seed=0",
            "a_sweep",
        )
        assert (started["job_type"], started["tags"]) == ("train", ["mine", "tag", "t" * 64])
        logged = [(row["step"]["num"], own(row["item"])) for row in record["history"]]
        assert logged[: len(rows)] == [
            (first_step + step, {"step": first_step + step, **row}) for step, row in rows.items()
        ]
        inner = [own(row) for _, row in logged[len(rows) :]]
        assert inner == (
            [{"step": 60, "test/inner_step": k, **mean} for k, mean in enumerate(INNER)] if first_step else []
        )
        summary: dict[str, Any] = {}
        for change in record["summary"]:
            summary |= own(change["update"])
        assert summary == expected
        assert bool(record["preempting"]) == (expected["status"] == "stopped")


def test_a_resumed_run_gives_back_the_rows_that_a_kill_has_lost_and_its_end_the_pictures(tmp_path, monkeypatch):
    """To a record that knows all before step 20, as one on the server does, and to one that knows nothing."""
    rows = [{"step": step, "train/loss": 1 / step} for step in (10, 20, 30, 40)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "figures").mkdir()
    Image.new("L", (4, 3)).save(tmp_path / "figures" / "curves.png")
    for known, given in ((15, rows[1:3]), (0, rows[:3])):
        logged: list[tuple[int, dict[str, Any]]] = []
        record = SimpleNamespace(
            step=known, log=lambda row, step, logged=logged: logged.append((step, row)),
            summary={}, mark_preempting=None, finish=lambda **_: None,
        )  # fmt: skip
        monkeypatch.setattr(Wandb, "_open", lambda self, run, record=record: record)
        logger = Wandb()
        logger.start(run_info(tmp_path, first_step=30))
        logger.log(40, {"train/loss": 1 / 40})
        logger.finish(RESULT, "finished")
        *mirrored, (_, first), (_, second), (_, pictures) = logged
        assert mirrored == [(row["step"], row) for row in [*given, rows[3]]]
        assert {**first, **second}.keys() == {"step", "test/inner_step", *INNER[0]}
        assert {name: image.image.size for name, image in pictures.items()} == {"figures/curves": (4, 3)}


def test_a_failure_in_mid_run_costs_one_warning(tmp_path, capfd, monkeypatch):
    import wandb

    def fail(self: wandb.Run, *_: object, **__: object) -> None:
        raise ConnectionError("server went away\nwith details")

    monkeypatch.setattr(wandb.Run, "log", fail)
    logger = Wandb()
    logger.start(run_info(tmp_path))
    for step in (1, 2, 3):
        logger.log(step, {"train/loss": 0.5})
    logger.finish(None, "failed")
    logger.log(4, {"train/loss": 0.5})
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "warning: W&B: server went away; metrics.jsonl is complete"
    assert err.count("warning") == 1


def test_wandb_that_cannot_be_imported_costs_one_warning(tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    logger = Wandb()
    logger.start(run_info(tmp_path))
    logger.log(1, {"train/loss": 0.5})
    logger.finish(None, "finished")
    assert capfd.readouterr().err.count("\n") == 1


def test_unreachable_server_means_offline(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    check_fallback(tmp_path, capfd, "127.0.0.1:9")


def test_wrong_key_means_offline(tmp_path, capfd, monkeypatch):
    class Refusal(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            answer = b'{"errors": [{"message": "user is not logged in"}]}'
            self.send_response(401)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        (tmp_path / ".netrc").write_text(f"machine 127.0.0.1:{server.server_port} login user password {KEY}\n")
        check_fallback(tmp_path, capfd, "user is not logged in")
        server.shutdown()


def test_malformed_key_means_offline(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    check_fallback(tmp_path, capfd, "40")


def check_fallback(folder: Path, capfd: pytest.CaptureFixture[str], reason: str) -> None:
    """One warning with the reason, every row in an offline record, the key in no file."""
    logger = Wandb(init_timeout=1.0)
    run = folder / "run"
    run.mkdir()
    logger.start(run_info(run))
    logger.log(10, {"train/loss": 0.5})
    logger.finish(RESULT, "finished")
    warning, hint = capfd.readouterr().err.splitlines()
    assert warning.startswith("warning: W&B: ")
    assert reason in warning
    assert warning.endswith("; logging offline")
    assert hint.startswith("W&B: offline; to upload: wandb sync ")
    [record] = records(run)
    inner = [{"step": 10, "test/inner_step": k, **mean} for k, mean in enumerate(INNER)]
    assert [own(row["item"]) for row in record["history"]] == [{"step": 10, "train/loss": 0.5}, *inner]
    assert not [file for file in run.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]


SCRIPT = """
from pathlib import Path
from fewshot.loggers.base import RunInfo
from fewshot.loggers.wandb import Wandb

for mode in ("auto", "online"):
    logger = Wandb(mode=mode)
    logger.start(RunInfo(folder=Path("."), name="n", id=mode, steps=1, first_step=0, config={}, group="",
                         job_type="train"))
    logger.log(1, {"train/loss": 0.5})
    logger.finish(None, "finished")
"""


def test_no_key_never_prompts_in_a_terminal(tmp_path):
    main, terminal = pty.openpty()
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        assert process.wait(timeout=60) == 0
    written = b""
    while select.select([main], [], [], 0.1)[0]:
        written += os.read(main, 1 << 16)
    os.close(terminal)
    os.close(main)
    warning = b"warning: W&B: no API key found; logging offline (`wandb login` stores one)\r\n"
    hint = b"W&B: offline; to upload: wandb sync wandb/offline-run-*\r\n"
    assert written == hint + warning + hint
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 2


def test_disabled_leaves_no_trace(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = Wandb()
    logger.start(run_info(tmp_path))
    logger.log(1, {"train/loss": 0.5})
    logger.finish(RESULT, "finished")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_unknown_mode_is_refused():
    with pytest.raises(InputError, match="mode=onlin is unknown; choose auto, online, offline or disabled"):
        Wandb(mode="onlin")


def test_tags_and_names_are_cut_to_what_wandb_takes():
    assert tags(["", "  ", "a", "a", " b ", "x" * 70, "y" * 64]) == ["a", "b", "x" * 64, "y" * 64]
    assert tags([]) == []


def test_flatten():
    assert flatten({"a": {"b": {"c": 1}, "d": [2, 3]}, "l": [{"x": 1}], "e": None, "f": 0}) == {
        "a/b/c": 1,
        "a/d": [2, 3],
        "f": 0,
    }


def test_wandb_is_imported_only_by_a_run():
    check = "import sys; import fewshot.loggers.wandb; assert 'wandb' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_yaml_keys_are_the_constructor_parameters():
    keys = OmegaConf.load(CONF)
    assert keys.project == "fewshot"
    assert keys.entity is None
    assert keys.pop("_target_") == "fewshot.loggers.wandb.Wandb"
    assert set(keys) == set(inspect.signature(Wandb).parameters)
    assert CONF.read_text().startswith("# @package logger.wandb\n")
