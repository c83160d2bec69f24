"""How far a job is: read as it is written."""

import json
from pathlib import Path

from fewshot.sweep.progress import JobProgress


def write(run: Path, *rows: dict[str, float], torn: str = "") -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows) + torn)


def test_follows_a_file_that_grows(tmp_path: Path) -> None:
    progress = JobProgress(tmp_path)
    progress.update()
    assert (progress.step, progress.accuracy) == (None, None)
    write(tmp_path, {"step": 1, "train/accuracy": 20.0}, torn='{"step": 2, "tra')
    progress.update()
    assert (progress.step, progress.accuracy) == (1, 20.0)
    write(tmp_path, torn='in/accuracy": 30.0}\n')
    progress.update()
    assert (progress.step, progress.accuracy) == (2, 30.0)
    write(tmp_path, {"step": 3, "train/accuracy": 99.0, "val/accuracy": 40.0}, {"step": 4, "train/accuracy": 98.0})
    progress.update()
    assert (progress.step, progress.accuracy) == (4, 40.0), "a validation counts more than a batch of training"
    write(tmp_path, torn="no row\n")
    progress.update()
    assert progress.step == 4


def test_reads_anew_what_a_resumed_run_has_replaced(tmp_path: Path) -> None:
    progress = JobProgress(tmp_path)
    write(tmp_path, {"step": 1}, {"step": 2}, {"step": 3})
    progress.update()
    assert progress.step == 3
    (tmp_path / "new").write_text('{"step": 1}\n{"step": 2}\n')
    (tmp_path / "new").rename(tmp_path / "metrics.jsonl")
    progress.update()
    assert progress.step == 2
