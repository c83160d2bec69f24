"""metrics.jsonl: a line for every logged step, whole after a kill at any moment. Layer 1."""

import errno
import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot import records, schema
from fewshot.engine import strict_json
from fewshot.engine.durable import replace, reported
from fewshot.errors import FewshotError
from fewshot.printable import printable

_LOG = logging.getLogger("fewshot")


class MetricsFile:
    """Rows are dicts with their `step`. It is open from the first row that is added until `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._hash: Any = None  # of all rows, once somebody has asked

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row in a single write. FewshotError where the disk is full."""
        row = {"step": row["step"], **row}
        line = strict_json.dumps(row).encode()
        with reported(self.path.parent, FewshotError):
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            written = os.write(self._descriptor, line)
            if written != len(line):  # the disk is full: leave no half line
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._hash is not None:
            self._hash.update(_timeless(row))

    @property
    def digest(self) -> str:
        """Hash of all rows, without their times: a checkpoint keeps it, so that a resumed run sees what is missing."""
        if self._hash is None:
            self._hash = hashlib.sha256(b"".join(map(_timeless, self.read())))
        return str(self._hash.hexdigest())

    def read(self) -> list[dict[str, Any]]:
        """All rows. A torn last line, left by a kill, is no row; other damage is left out with a warning.

        InputError where it is no file.
        """
        return [row for _, row in self._lines()]

    def truncate(self, step: int) -> None:
        """Before going on from `step`: drop later rows and a torn last line. -1 drops all, to start over."""
        kept = [line for line, row in self._lines() if row["step"] <= step]
        self.close()  # the descriptor is of the old file
        self._hash = None
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
        lines = records.content(self.path).split(b"\n")[:-1]
        for number, line in enumerate(lines, start=1):
            if not self._add(rows, line):
                _LOG.warning("%s: line %d is damaged and left out", printable(self.path), number)
        return rows

    def _add(self, rows: list[tuple[str, dict[str, Any]]], line: bytes) -> bool:
        """Whether the line is a row."""
        try:
            row = strict_json.loads(line)
            if schema.fault(row, schema.ROW, ""):
                return False
            rows.append((line.decode() + "\n", row))
        except (ValueError, RecursionError):
            return False
        return True


def _timeless(row: Mapping[str, Any]) -> bytes:
    return strict_json.dumps({key: value for key, value in row.items() if not key.startswith("time/")}).encode()
