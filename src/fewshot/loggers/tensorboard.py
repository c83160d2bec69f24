"""TensorBoard event files in the run folder (extra `tensorboard`). Layer 2."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fewshot.errors import InputError
from fewshot.loggers.base import RunInfo

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Every logged row as scalars in `<run folder>/tensorboard`, the test metrics at the end.

    flush_seconds: how long a row may wait before it is on disk.
    """

    def __init__(self, *, flush_seconds: int = 10) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise InputError(
                "logger=tensorboard needs the package tensorboard, which is not installed; "
                "pip install tensorboard, or leave tensorboard out of logger=[...]"
            )
        self.flush_seconds = flush_seconds
        self._writer: SummaryWriter | None = None
        self._step = 0

    def start(self, run: RunInfo) -> None:
        self._step = run.first_step
        self._guard(lambda: self._open(run))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._step = step
        self._guard(lambda: self._write(step, metrics))

    def progress(self, step: int) -> None:
        """Nothing to do between two rows."""

    def trained(self, step: int) -> None:
        """Nothing to do before the test."""

    def finish(self, result: Mapping[str, Any] | None, status: str) -> None:
        test = (result or {}).get("test") or {}
        numbers = {f"test/{key}": value for key, value in test.items() if isinstance(value, int | float)}
        self._guard(lambda: self._write(self._step, numbers))
        self._guard(self._close)

    def _open(self, run: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # a resumed run repeats the steps after its checkpoint: the rows of the first pass are hidden
        purge_step = run.first_step + 1 if run.first_step else None
        folder = run.folder / "tensorboard"
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=self.flush_seconds)

    def _write(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._writer is not None:
            for key, value in metrics.items():
                self._writer.add_scalar(key, value, step)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _guard(self, action: Callable[[], None]) -> None:
        """A logger never fails the run: one warning, then nothing more is written."""
        try:
            action()
        except Exception as error:
            self._writer = None
            with contextlib.suppress(OSError, ValueError):  # nobody reads standard error
                print(f"warning: TensorBoard stopped: {error}; metrics.jsonl is complete", file=sys.stderr)
