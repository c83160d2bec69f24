"""Run folders: never shared, held by one process, and right after a kill."""

import errno
import json
import math
import os
import re
import resource
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from toy_data import RESULT

from fewshot import __version__, held_run
from fewshot.errors import FewshotError, InputError
from fewshot.held_run import HeldRun
from fewshot.run_folder import RunFolder

ROWS = [{"step": step, "train/loss": 1 / step} for step in (1, 2, 3)]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[HeldRun]:
    folder = HeldRun.create(tmp_path / "outputs" / "maml", "ways: 5\n", "abc")
    yield folder
    folder.close()


def created(root: Path, identity: str = "abc") -> HeldRun:
    folder = HeldRun.create(root / "maml", "ways: 5\n", identity)
    folder.close()
    return folder


def test_create(run: HeldRun, tmp_path: Path) -> None:
    assert run.path.parent == tmp_path / "outputs" / "maml"
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", run.path.name)
    assert (run.path / "config.yaml").read_text() == "ways: 5\n"
    info = json.loads((run.path / "run.json").read_text())
    assert (info["identity"], info["fewshot"]) == ("abc", __version__)
    for folder, name in (
        (run.checkpoints, "checkpoints"),
        (run.episodes, "episodes"),
        (run.figures, "figures"),
    ):
        assert folder == run.path / name
        assert folder.is_dir()
    assert not run.finished
    assert run.metrics.read() == []


def test_fifty_runs_in_the_same_second_are_fifty_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(50) as pool:
        runs = list(pool.map(lambda _: created(tmp_path), range(50)))
    assert len({run.path for run in runs}) == len(list((tmp_path / "maml").iterdir())) == 50


def test_processes_in_the_same_second(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from fewshot.held_run import HeldRun\n"
        "for _ in range(50):\n"
        "    if os.fork() == 0:\n"
        "        HeldRun.create(Path(sys.argv[1]) / 'maml', 'a: 1', 'abc'); os._exit(0)\n"
        "assert all(os.wait()[1] == 0 for _ in range(50))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert len(RunFolder.listed(tmp_path / "maml")) == 50


def test_equal_ids_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["aaaa", "aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr(held_run.time, "strftime", lambda _: "20260101-000000")
    monkeypatch.setattr(secrets, "token_hex", lambda _: next(ids))
    assert [created(tmp_path).path.name[-4:] for _ in range(2)] == ["aaaa", "bbbb"]


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder in which this process may not write."""
    folder = tmp_path / "read only"
    folder.mkdir(mode=0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)


def test_a_root_that_is_not_writable(read_only: Path) -> None:
    with pytest.raises(InputError, match=rf"cannot write in {read_only}/maml: .*choose another output_dir") as caught:
        HeldRun.create(read_only / "maml", "", "abc")
    assert caught.value.exit_code == 2


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("")
    with pytest.raises(InputError, match=rf"cannot write in .*/maml: {os.strerror(errno.ENOTDIR)}"):
        HeldRun.create(tmp_path / "outputs" / "maml", "", "abc")


def test_a_folder_that_could_not_be_filled_is_removed(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(InputError, match=os.strerror(errno.EFBIG)):
            HeldRun.create(tmp_path / "maml", "#" * 2000, "abc")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "maml").iterdir()) == []


def test_one_process_holds_the_lock(run: HeldRun) -> None:
    with pytest.raises(InputError, match="is in use by a running process"):
        HeldRun.open(run.path)
    RunFolder(run.path).metrics.read()  # reading takes no lock
    run.close()
    HeldRun.open(run.path).close()


def test_the_lock_of_a_killed_process_is_free(run: HeldRun) -> None:
    run.close()
    code = (
        "import sys, time; from pathlib import Path; from fewshot.held_run import HeldRun\n"
        "run = HeldRun.open(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="is in use"):
            HeldRun.open(run.path)
        assert HeldRun.newest_unfinished(run.path.parent, "abc") is None
        holder.send_signal(signal.SIGKILL)
    HeldRun.open(run.path).close()


def test_without_locks_a_run_goes_on_with_a_warning(
    run: HeldRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    HeldRun.open(run.path).close()
    assert "use it from one process at a time" in caplog.text


def test_open_wants_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run folder"):
        HeldRun.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_newest_unfinished_run_of_the_identity(tmp_path: Path) -> None:
    assert HeldRun.newest_unfinished(tmp_path / "maml", "abc") is None
    oldest, older, finished = created(tmp_path), created(tmp_path), created(tmp_path)
    other = created(tmp_path, "other")
    finished.write_result({"schema": 1})
    (tmp_path / "maml" / "20990101-000000-ffffff").mkdir()  # killed before it was a run
    (tmp_path / "maml" / "notes.txt").write_text("mine")
    assert RunFolder.listed(tmp_path / "maml") == [
        (other.path, "other", False),
        (finished.path, "abc", True),
        (older.path, "abc", False),
        (oldest.path, "abc", False),
    ]
    first = HeldRun.newest_unfinished(tmp_path / "maml", "abc")
    second = HeldRun.newest_unfinished(tmp_path / "maml", "abc")  # the first is held by now
    assert first is not None
    assert second is not None
    assert (first.path, second.path) == (older.path, oldest.path)
    assert HeldRun.newest_unfinished(tmp_path / "maml", "abc") is None
    first.close()
    second.close()


def test_a_run_that_finishes_between_the_look_and_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = created(tmp_path)
    seen = RunFolder.listed(tmp_path / "maml")
    run.write_result({})
    monkeypatch.setattr(RunFolder, "listed", lambda *_: seen)
    assert HeldRun.newest_unfinished(tmp_path / "maml", "abc") is None
    HeldRun.open(run.path).close()


def test_a_full_disk_leaves_no_half_row(run: HeldRun) -> None:
    run.metrics.append(ROWS[0])
    size = (run.path / "metrics.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, hard))
    try:
        with pytest.raises(FewshotError, match=r"cannot write in .*make room there"):
            run.metrics.append(ROWS[1])
        with pytest.raises(FewshotError, match="cannot write in"):
            run.write_result({"text": "x" * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (run.path / "metrics.jsonl").stat().st_size == size
    assert not run.finished
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")]
    run.metrics.append(ROWS[1])
    assert run.metrics.read() == ROWS[:2]


def test_the_result_makes_a_run_finished(run: HeldRun) -> None:
    with pytest.raises(FewshotError, match=r"has no result\.json: its run is not finished"):
        run.result()
    result = RESULT | {"name": "ä", "test": RESULT["test"] | {"loss": math.inf}, "paper": None}
    run.write_result(result)
    assert run.finished
    stored = run.result()
    assert list(stored) == [*result, "files"]
    assert list(stored.pop("files")) == ["config.yaml"]
    assert stored == result | {"test": result["test"] | {"loss": "inf"}}
    assert run.changed == []
    text = (run.path / "result.json").read_text()
    assert text.startswith('{\n  "schema": 1,\n  "name"')
    (run.path / "result.json").write_text(text.replace("98.61", "99.61"))
    (run.path / "config.yaml").write_text("ways: 6\n")
    assert run.result()["test"]["accuracy"] == 99.61
    assert run.changed == ["config.yaml", "result.json"]
    (run.path / "result.json").write_text('{"schema"')
    with pytest.raises(FewshotError, match=r"result.json is damaged: .*; remove it, and the command"):
        run.result()


def test_a_moved_folder_with_an_odd_name_goes_on(tmp_path: Path) -> None:
    run = HeldRun.create(tmp_path / "out [1] *" / "Läufe 中文", "größe: 1\n", "abc")
    run.metrics.append(ROWS[0])
    run.close()
    (tmp_path / "out [1] *").rename(tmp_path / "else where")
    again = HeldRun.newest_unfinished(tmp_path / "else where" / "Läufe 中文", "abc")
    assert again is not None
    again.metrics.append(ROWS[1])
    assert again.metrics.read() == ROWS[:2]
    assert (again.path / "config.yaml").read_text(encoding="utf-8") == "größe: 1\n"
    for path in again.path.iterdir():
        assert path.is_dir() or str(tmp_path) not in path.read_text(encoding="utf-8")
    again.close()
