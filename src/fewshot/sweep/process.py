"""One job as a process of its own, forked from one that has imported torch already. Layer 7; no torch here.

Otherwise importing would take 3 s of a core for each job. The standard library's fork server does it: a fresh
process, started before there is any thread or tensor, which forks on request and returns exit codes.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fewshot.cli.errors import guarded
from fewshot.errors import InputError
from fewshot.signals import CAUGHT

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

WARM = "fewshot.sweep.warm"
OPTIMIZERS = "torch._dynamo"  # imported by the first optimiser of a process: 2 s of a core
Work = Callable[[Any], int]


def warm_up(*, gpus: bool) -> None:
    """Start the process that jobs are forked from; it imports while the launcher composes configurations.

    gpus: it then does not import what may initialise CUDA: after that, forked processes could not use CUDA.
    """
    if missing := [call for call in ("fork", "setsid", "killpg") if not hasattr(os, call)]:
        raise InputError(
            f"hydra/launcher=local forks its jobs, which this system cannot (no os.{', os.'.join(missing)}); "
            "hydra/launcher=basic runs them one after the other"
        )
    from multiprocessing import forkserver

    multiprocessing.set_forkserver_preload([WARM] if gpus else [WARM, OPTIMIZERS])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)  # until it ignores them: Ctrl-C is for the launcher
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Child:
    """The process of a job, in a session of its own: the terminal's Ctrl-C does not reach it."""

    def __init__(self, work: Work, cfg: Any, log: Path, environment: Mapping[str, str]) -> None:
        self.log, self.started = log, time.monotonic()
        self.asked: float | None = None  # after how many seconds it was asked to stop, having taken too long
        context = multiprocessing.get_context("forkserver")
        variables = {**os.environ, **environment}
        arguments = (work, cfg, str(log), str(Path.cwd()), variables)
        self._process: ForkServerProcess = context.Process(target=_main, args=arguments)
        with _without_main():
            self._process.start()

    @property
    def sentinel(self) -> int:
        """For multiprocessing.connection.wait: ready when the process has ended."""
        return self._process.sentinel

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that killed it."""
        return self._process.exitcode

    def send(self, signum: int) -> None:
        """A signal to the job itself, which then saves and ends."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid or 0, signum)

    def kill(self) -> None:
        """End it at once, with all that it has started."""
        for kill in (os.killpg, os.kill):  # it may not be in its own session yet
            with contextlib.suppress(ProcessLookupError):
                kill(self._process.pid or 0, signal.SIGKILL)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Otherwise multiprocessing would first run the launcher's own script in the child."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _main(work: Work, cfg: Any, log: str, cwd: str, environment: Mapping[str, str]) -> None:
    """In the child: the same conditions as for a command of its own, with its output in the log."""
    os.setsid()
    for signum in CAUGHT:
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    threading.Thread(target=_stop_with_launcher, daemon=True).start()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    output = opened(log)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
        stream.reconfigure(line_buffering=True, errors="replace")  # type: ignore[union-attr]
    sys.exit(guarded(lambda: run(work, cfg), debug=False))


def opened(log: str) -> int:
    """The descriptor of a job's log. SystemExit with one line where its folder cannot be written any more: this job
    fails, and the others go on."""
    try:
        return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        sys.exit(f"error: cannot write {log}: {error.strerror}")


def run(work: Work, cfg: Any) -> int:
    """Runs a job as Hydra's `run_job` does."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import setup_globals
    from omegaconf import open_dict

    setup_globals()
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return work(cfg)


def _stop_with_launcher() -> None:
    """Once the launcher has been killed: the job saves its state and ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
