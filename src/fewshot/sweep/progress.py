"""How far a running job is, from its metrics.jsonl. Layer 7; no torch."""

import json
from contextlib import suppress
from pathlib import Path


class JobProgress:
    """Reads what was added since the last call; a resumed run replaces the file, which is then read from its start."""

    def __init__(self, run: Path) -> None:
        self._file = run / "metrics.jsonl"
        self._read = (0, 0)  # inode, bytes
        self.step: int | None = None
        self.accuracy: float | None = None  # the last validation's; before there is one, the last training row's
        self._validated = False

    def update(self) -> None:
        with suppress(OSError), self._file.open("rb") as file:
            inode = self._file.stat().st_ino
            start = self._read[1] if inode == self._read[0] else 0
            file.seek(start)
            whole, newline, _ = file.read().rpartition(b"\n")
            self._read = (inode, start + len(whole) + len(newline))
            for line in whole.split(b"\n"):
                with suppress(ValueError, KeyError, TypeError):
                    self._add(json.loads(line))

    def _add(self, row: dict[str, float]) -> None:
        self.step = int(row["step"])
        validated = row.get("val/accuracy")
        if validated is not None:
            self.accuracy = validated
        elif not self._validated:
            self.accuracy = row.get("train/accuracy", self.accuracy)
        self._validated = self._validated or validated is not None
