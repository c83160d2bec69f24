"""Signals: the process ends at once while there is nothing to save, and at a step boundary once there is. Layer 0."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from fewshot.errors import FewshotError

# Those of them that this system has: Windows knows the first two.
CAUGHT = tuple(found for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
               if (found := getattr(signal, name, None)) is not None)  # fmt: skip
ENDING = ("SIGINT", "SIGTERM", "SIGHUP")  # for whoever does not wait for them; the others are a cluster's
PATIENCE = 1.5  # seconds after which whoever asked to stop is told what the run is still doing


def exit_code(signum: int) -> int:
    """Of a process that a signal stopped: 130 for Ctrl-C, 75 for the others."""
    return 130 if signum == signal.SIGINT else 75


def end_at_once(signum: int, frame: FrameType | None = None) -> NoReturn:
    """The handler while nothing has to be saved: one word, and the end.

    It raises no exception: in the middle of an import, or of a library that catches it, another would come out.
    """
    cursor = "\x1b[?25h" if sys.stderr is not None and os.isatty(2) else ""  # a bar may have hidden it
    with contextlib.suppress(OSError):
        os.write(2, f"{cursor}stopped\n".encode())
    os._exit(exit_code(signum))


def end_at_once_from_here() -> None:
    """Install `end_at_once` for every signal that nobody has a handler for; one that is ignored stays ignored."""
    for signum in CAUGHT:
        if signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(signum, end_at_once)


class Stopped(FewshotError):
    """A signal ended the run after its state was saved. Exit code 75, or 130 for Ctrl-C."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = exit_code(signum)


class StopSignal:
    """Context manager that takes the signals of `CAUGHT`: the first one is noted as `received`, for the loop to save
    and stop, and a second one ends the process at once.

    Handlers that were there before (a cluster's launcher) are put back at the end, and called by `pass_on`, after the
    run has saved.
    at_once: a signal ends the process at once, or calls the handler that was there, but for the time of `deferred`.
    relayed: a launcher passes signals on, perhaps one that came here already, and kills by itself when it has
    waited enough (torchrun: 30 s); a second one then does nothing.
    """

    def __init__(self, *, relayed: bool = False, at_once: bool = False) -> None:
        self.received: int | None = None
        self.relayed = relayed
        self._deferring, self._doing = not at_once, ""
        self._for_launcher: list[int] = []
        self._before: dict[int, signal.Handlers | object] = {}

    def __enter__(self) -> "StopSignal":
        for signum in CAUGHT:
            if signum.name != "SIGHUP" or signal.getsignal(signum) != signal.SIG_IGN:  # `nohup` has it ignored
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def deferred(self, doing: str) -> Iterator[None]:
        """Inside, a signal waits for the loop to look at `received`. doing: what is said if that takes a while."""
        before = self._deferring, self._doing
        self._deferring, self._doing = True, doing
        try:
            yield
        finally:
            self._deferring, self._doing = before

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self._deferring:
            self._now(signum, frame)
            return
        if self._is_launchers(signum):  # a cluster sends several, such as SIGTERM and then SIGUSR2
            self._for_launcher.append(signum)
        elif self.received is not None and not self.relayed:
            os._exit(128 + signum)
        if self.received is None:
            self.received = signum
        if self._doing:
            reminder = threading.Timer(PATIENCE, self._remind)
            reminder.daemon = True
            reminder.start()

    def _now(self, signum: int, frame: FrameType | None) -> None:
        """A launcher's handler decides: it ends the process, or returns and the run goes on."""
        if self._is_launchers(signum):
            self._before[signum](signum, frame)  # type: ignore[operator]
        else:
            end_at_once(signum)

    def _remind(self) -> None:
        if self._doing and self.received is not None:
            with contextlib.suppress(OSError):
                os.write(2, f"stopping: {self._doing} first (again: at once)\n".encode())

    def _is_launchers(self, signum: int) -> bool:
        """Whether somebody else had installed a handler for the signal."""
        handler = self._before.get(signum)
        return callable(handler) and handler not in (signal.default_int_handler, end_at_once)

    def sleep(self, seconds: float) -> None:
        """So long, or until a signal has come."""
        end = time.monotonic() + seconds
        while self.received is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(0.1, left))

    def pass_on(self) -> bool:
        """Call the handlers that were there before ours, in the order in which their signals came.

        Such a handler may end the process (after it has put the job back into the cluster's queue). True where the
        signal was the launcher's and all have come back: the run is to go on, and no signal counts as received.
        """
        launchers = self.received is not None and self._is_launchers(self.received)
        while self._for_launcher:
            signum = self._for_launcher.pop(0)
            self._before[signum](signum, None)  # type: ignore[operator]
        if launchers:
            self.received = None
        return launchers


@contextlib.contextmanager
def ending_at_once(clean_up: Callable[[], object]) -> Iterator[None]:
    """Work that cannot be gone on with: a signal of `ENDING` calls `clean_up` and ends the process at once; one that
    is ignored stays ignored.

    Where they are not this process's to decide (Python's own handler, a StopSignal that defers) they raise
    KeyboardInterrupt or Stopped instead. Other threads than the main one, which no signal reaches, are left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        clean_up()
        owner = getattr(before[signum], "__self__", None)
        if before[signum] is signal.default_int_handler:
            raise KeyboardInterrupt
        if isinstance(owner, StopSignal) and owner._deferring:
            raise Stopped(signum, "stopped while a data set was being prepared")
        end_at_once(signum, frame)

    handlers: dict[int, Any] = {signum: signal.getsignal(signum) for signum in CAUGHT if signum.name in ENDING}
    before = {signum: handler for signum, handler in handlers.items() if handler != signal.SIG_IGN}
    for signum in before:
        signal.signal(signum, handle)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
