"""Run folders as rows. Layer 4."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fewshot.errors import InputError
from fewshot.run_folder import RunFolder

COLUMNS = [
    "name", "algorithm", "dataset", "split", "ways", "shots", "queries", "seed", "steps",
    "accuracy", "accuracy_ci95", "raw_pixels", "untrained", "paper", "verdict", "train_seconds", "status", "folder",
]  # fmt: skip


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Every run folder (it holds a run.json) at or below the paths, in order of name and age."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist; give run folders or folders that hold them")
        found += [path] if (path / "run.json").exists() else [f.parent for f in path.rglob("run.json")]
    return sorted(dict.fromkeys(found), key=lambda folder: (folder.parent, folder.name))


def row(folder: Path) -> dict[str, Any]:
    """One run as COLUMNS; an unfinished one says how far it came."""
    run = RunFolder(folder)
    if not run.finished:
        rows = run.read_metrics()
        reached = rows[-1]["step"] if rows else 0
        return {"name": folder.parent.name, "steps": reached, "status": "unfinished", "folder": str(folder)}
    result = run.result()
    paper: Mapping[str, Any] = result.get("paper") or {}
    base: Mapping[str, Any] = result.get("baselines") or {}
    return {key: result.get(key) for key in COLUMNS[:9]} | {
        "accuracy": result["test"]["accuracy"],
        "accuracy_ci95": result["test"]["accuracy_ci95"],
        "raw_pixels": base.get("raw_pixels", {}).get("accuracy"),
        "untrained": base.get("untrained", {}).get("accuracy"),
        "paper": paper.get("accuracy"),
        "verdict": paper.get("verdict"),
        "train_seconds": result.get("timing", {}).get("train_seconds"),
        "status": "finished",
        "folder": str(folder),
    }


def write_csv(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
