"""metrics.jsonl: a line for every logged step, whole after a kill at any moment. Layer 1."""

import errno
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot.engine import strict_json
from fewshot.engine.durable import replace, reported
from fewshot.errors import FewshotError

_LOG = logging.getLogger("fewshot")


class MetricsFile:
    """Rows are dicts with their `step`. It is open from the first row that is added until `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row in a single write. FewshotError where the disk is full."""
        line = strict_json.dumps({"step": row["step"], **row}).encode()
        with reported(self.path.parent, FewshotError):
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            written = os.write(self._descriptor, line)
            if written != len(line):  # the disk is full: leave no half line
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read(self) -> list[dict[str, Any]]:
        """All rows. A torn last line, left by a kill, is no row; other damage is left out with a warning."""
        return [row for _, row in self._lines()]

    def truncate(self, step: int) -> None:
        """Before going on from `step`: drop later rows and a torn last line. -1 drops all, to start over."""
        kept = [line for line, row in self._lines() if row["step"] <= step]
        self.close()  # the descriptor is of the old file
        with reported(self.path.parent, FewshotError):
            replace(self.path, "".join(kept).encode())

    def close(self) -> None:
        """Rows can be added again afterwards."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lines(self) -> list[tuple[str, dict[str, Any]]]:
        if not self.path.exists():
            return []
        rows: list[tuple[str, dict[str, Any]]] = []
        for number, line in enumerate(self.path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                row = strict_json.loads(line)
                int(row["step"])
                rows.append((line.decode() + "\n", row))
            except (ValueError, KeyError, TypeError):
                _LOG.warning("%s: line %d is damaged and left out", self.path, number)
        return rows
