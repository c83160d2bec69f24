"""Stopping at a step boundary: one signal asks, a second one ends the process at once. Layer 0."""

import os
import signal
import time
from types import FrameType

from fewshot.errors import FewshotError

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(FewshotError):
    """A signal ended the run after its state was saved. Exit code 75, or 130 for Ctrl-C."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = 130 if signum == signal.SIGINT else 75


class StopSignal:
    """Context manager: catches SIGINT, SIGTERM, SIGUSR1 and SIGUSR2; `received` is the first one's number.

    Handlers that were there before (a cluster's launcher) are put back at the end and called by `pass_on`,
    after the run has saved.
    relayed: a launcher passes signals on, perhaps one that came here already, and kills by itself when it has
    waited enough (torchrun: 30 s); a second one then does nothing.
    """

    def __init__(self, *, relayed: bool = False) -> None:
        self.received: int | None = None
        self.relayed = relayed
        self._for_launcher: list[int] = []
        self._before: dict[int, signal.Handlers | object] = {}

    def __enter__(self) -> "StopSignal":
        for signum in CAUGHT:
            self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    def _handle(self, signum: int, _: FrameType | None) -> None:
        if self._theirs(signum):  # a cluster sends several, such as SIGTERM and then SIGUSR2: each is its launcher's
            self._for_launcher.append(signum)
        elif self.received is not None and not self.relayed:
            os._exit(128 + signum)
        self.received = self.received or signum

    def _theirs(self, signum: int) -> bool:
        """Whether somebody else had installed a handler for the signal."""
        handler = self._before.get(signum)
        return callable(handler) and handler is not signal.default_int_handler

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
        launchers = self.received is not None and self._theirs(self.received)
        while self._for_launcher:
            signum = self._for_launcher.pop(0)
            self._before[signum](signum, None)  # type: ignore[operator]
        if launchers:
            self.received = None
        return launchers
