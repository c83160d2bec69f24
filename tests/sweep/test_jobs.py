"""sweep.json: numbers that stay, states that a kill leaves, and one writer."""

import errno
import json
import os
from pathlib import Path

import pytest
from toy_data import plain_result

from fewshot.errors import InputError
from fewshot.sweep.jobs import SweepRecord


def finish(sweep: Path, identity: str) -> None:
    (sweep / identity).mkdir()
    (sweep / identity / "result.json").write_text(json.dumps(plain_result()))


def test_a_job_keeps_its_number_and_its_log(tmp_path: Path) -> None:
    record = SweepRecord(tmp_path / "s", ["fewshot", "train"])
    a, b = record.job("aaa", ["seed=0"]), record.job("bbb", ["seed=1"])
    assert (a.number, b.number, a.log, b.log) == (0, 1, "logs/0.log", "logs/1.log")
    a.status, a.exit_code, a.reason, a.attempts, a.seconds = "failed", 1, "exit code 1: boom", 2, 3.5
    b.status = "running"
    record.save()
    record.close()

    again = SweepRecord(tmp_path / "s", ["fewshot", "train", "-m"])
    again.save()
    stored = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert (stored["schema"], stored["command"]) == (1, ["fewshot", "train", "-m"])
    assert [job["status"] for job in stored["jobs"]] == ["failed", "stopped"], "what ran when its launcher was killed"
    assert stored["jobs"][0] == {
        "number": 0, "identity": "aaa", "overrides": ["seed=0"], "status": "failed", "exit_code": 1,
        "reason": "exit code 1: boom", "attempts": 2, "seconds": 3.5, "log": "logs/0.log",
    }  # fmt: skip
    c, b, a = again.job("ccc", ["seed=2"]), again.job("bbb", ["seed=1"]), again.job("aaa", ["threads=2", "seed=0"])
    assert [job.number for job in (a, b, c)] == [0, 1, 2]
    assert (a.status, a.reason, a.attempts, a.overrides) == ("waiting", None, 2, ["threads=2", "seed=0"])
    assert again.job("aaa", ["threads=2", "seed=0"]) is a
    again.close()


def test_the_run_folder_says_what_is_done(tmp_path: Path) -> None:
    record = SweepRecord(tmp_path / "s", [])
    finish(tmp_path / "s", "aaa")
    assert record.job("aaa", ["seed=0"]).status == "done"
    assert record.job("bbb", ["seed=0"]).status == "waiting", "the result of another configuration was taken"
    assert record.job(None, ["shots=0"]).status == "waiting"
    (tmp_path / "s" / "aaa" / "result.json").write_text("[]")
    damaged = record.job("aaa", ["seed=0"])  # is its own failure
    assert damaged.status == "failed" and "result.json is damaged: it is a list" in str(damaged.reason)
    record.close()


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        '{"jobs": [{"number": 1, "overrides": [], "status": "odd", "seconds": "x"}]}',
        '{"jobs": [{"number": 1}]}',
        '{"jobs": 3}',
        "[]",
    ],
)
def test_a_damaged_file_costs_its_notes_only(tmp_path: Path, damage: str) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "sweep.json").write_text(damage)
    finish(tmp_path / "s", "aaa")
    record = SweepRecord(tmp_path / "s", [])
    assert record.job("aaa", ["seed=0"]).status == "done"
    record.save()
    assert len(json.loads((tmp_path / "s" / "sweep.json").read_text())["jobs"]) == 1
    record.close()


def test_one_writer(tmp_path: Path) -> None:
    first = SweepRecord(tmp_path / "s", [])
    with pytest.raises(InputError, match=r"the sweep .*/s is running already; wait for it, or stop it"):
        SweepRecord(tmp_path / "s", [])
    first.close()
    SweepRecord(tmp_path / "s", []).close()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write in .*/file/s: Not a directory; choose another output_dir"):
        SweepRecord(tmp_path / "file" / "s", [])


def test_a_record_that_cannot_be_written_ends_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    record = SweepRecord(tmp_path / "s", [])
    monkeypatch.setattr("fewshot.sweep.jobs.replace", refused)
    record.save()
    record.save()
    assert caplog.text.count("sweep.json (Read-only file system); the jobs go on without it") == 1
    record.close()
