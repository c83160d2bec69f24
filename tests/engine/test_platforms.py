"""What only some systems have: macOS and Windows are imitated by taking away the calls that they lack."""

import ast
import builtins
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot.engine import cores, durable, lock, runtime
from fewshot.errors import InputError
from fewshot.sweep.process import warm_up

SOURCE = Path(__file__).parents[2] / "src"
# Of os and signal: what Windows lacks and, the first one, macOS too. The sweep's own processes are POSIX's.
LACKING = {"sched_getaffinity", "setsid", "killpg", "fork", "getuid", "mkfifo", "sync", "nice", "SIGHUP", "SIGUSR1",
           "SIGUSR2", "SIGKILL", "pthread_sigmask", "alarm", "setitimer", "O_NOFOLLOW", "O_NONBLOCK"}  # fmt: skip
POSIX_ONLY = ("sweep/process.py", "sweep/warm.py")
IMPORTS = """
import os, signal, sys
for module in ("fcntl", "resource", "pwd", "termios"):
    sys.modules[module] = None
for name in ("sched_getaffinity", "setsid", "killpg", "fork"):
    delattr(os, name)
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "pthread_sigmask"):
    delattr(signal, name)
import fewshot.cli.report, fewshot.cli.train, fewshot.run_folder, fewshot.signals, fewshot.sweep.launch
assert [s.name for s in fewshot.signals.CAUGHT] == ["SIGINT", "SIGTERM"]
"""


def test_what_starts_and_reports_is_imported_without_them() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_file_uses_what_a_system_lacks() -> None:
    for file in sorted(SOURCE.rglob("*.py")):
        if str(file).endswith(POSIX_ONLY):
            continue
        tree = ast.parse(file.read_text())
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name) and node.value.id in ("os", "signal")}  # fmt: skip
        at_once = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        assert not used & LACKING, file
        assert not at_once & {"fcntl", "resource", "pwd", "termios", "msvcrt"}, file


def test_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    linux = runtime.peak_memory_mb(cpu)
    assert 50 < linux < 1e5
    monkeypatch.setattr("sys.platform", "darwin")
    assert runtime.peak_memory_mb(cpu) == pytest.approx(linux / 1024, rel=0.2)  # it gives bytes there
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores.usable() == os.cpu_count()
    own = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "resource":
            raise ImportError(name)
        return own(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert runtime.peak_memory_mb(cpu) == 0


def test_a_sweep_that_cannot_fork_says_what_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "setsid")
    with pytest.raises(InputError, match=r"which this system cannot \(no os\.setsid\); hydra/launcher=basic runs"):
        warm_up(gpus=False)


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    assert not lock.held(file) and not file.exists()
    taken = lock.take(file)
    assert taken is not None and lock.held(file)
    with pytest.raises(BlockingIOError):
        lock.take(file)
    taken.release()
    assert not lock.held(file) and file.exists()
    again = lock.take(file, wait=True)
    assert again is not None
    again.release()
    file.unlink()
    (tmp_path / "elsewhere").write_text("kept")
    file.symlink_to(tmp_path / "elsewhere")  # in a folder that somebody sent: some versions of filelock would empty it
    assert not lock.held(file)
    (tmp_path / ".new-new").symlink_to(tmp_path / "elsewhere")
    durable.replace(tmp_path / "new", b"data")
    assert (tmp_path / "elsewhere").read_text() == "kept"
    assert (tmp_path / "new").read_bytes() == b"data"
