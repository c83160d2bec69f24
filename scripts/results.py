"""The tables of results in README and docs, generated from the result files in docs/results.

    make results        (python scripts/results.py)

docs/results/tables.yaml names the rows of each table in their order; a table `x` is written between the lines
`<!-- results: x -->` and `<!-- end of results -->` of these pages. A number is in a result file or in no table.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "results"
NAMES = ("algorithms", "results", "protocols", "speed", "pictures")
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in NAMES))
COLUMNS = ("run", "task", "accuracy %", "raw pixels", "untrained", "published %", "training", "file")
MARKED = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def render(page: str, folder: Path = FOLDER) -> str:
    """A page with every marked table as the files have it. KeyError for a table that tables.yaml does not name."""
    wanted = yaml.safe_load((folder / "tables.yaml").read_text())
    return MARKED.sub(lambda match: f"{match[1]}{table(wanted[match[2]], folder)}{match[3]}", page)


def table(wanted: Mapping[str, Any], folder: Path = FOLDER) -> str:
    """One Markdown table and, below it, the commands of its rows, numbered."""
    if "records" in wanted:
        return recorded(read(folder, wanted["records"]))
    columns = wanted.get("columns", COLUMNS)
    commands = list(dict.fromkeys(row["command"] for row in wanted["rows"]))
    rows = [cells(row, 1 + commands.index(row["command"]), folder) for row in wanted["rows"]]
    lines = [columns, ["---"] * len(columns), *[[row[column] for column in columns] for row in rows]]
    code = [f"    ({i}) {command}" for i, command in enumerate(commands, start=1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n" + "\n".join(code) + "\n"


def recorded(file: Mapping[str, Any]) -> str:
    """A table of a file that holds its rows itself, column by column."""
    columns = list(file["rows"][0])
    lines = [columns, ["---"] * len(columns), *[[str(row[column]) for column in columns] for row in file["rows"]]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n    {file['command']}\n"


def cells(row: Mapping[str, Any], command: int, folder: Path) -> dict[str, str]:
    """Column -> text of one row. `file` may be a list, the seeds of one setting."""
    names = row["file"] if isinstance(row["file"], list) else [row["file"]]
    results = [read(folder, name) for name in names]
    first, base = results[0], results[0].get("baselines") or {}
    return {
        "run": f"{row['run']} ({command})",
        "task": f"{first['ways']}-way {first['shots']}-shot",
        "accuracy %": accuracies(results),
        "raw pixels": f"{base['raw_pixels']['accuracy']:.1f}" if "raw_pixels" in base else "–",
        "after inner steps": ", ".join(f"{step['accuracy']:.1f}" for step in first["test"].get("inner_steps") or ())
        or "–",
        "untrained": f"{base['untrained']['accuracy']:.1f}" if "untrained" in base else "–",
        "published %": published(results),
        "training": training(results),
        "file": ", ".join(f"`{name}`" for name in names),
    }


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def accuracies(results: Sequence[Mapping[str, Any]]) -> str:
    """`98.61 ± 0.21`; for seeds their mean and standard deviation, and each with its own interval."""
    each = [f"{r['test']['accuracy']:.2f} ± {r['test']['accuracy_ci95']:.2f}" for r in results]
    if len(each) == 1:
        return each[0]
    values = [r["test"]["accuracy"] for r in results]
    seeds = ", ".join(f"{r['seed']}: {text}" for r, text in zip(results, each, strict=True))
    return f"{fmean(values):.2f}, sd over seeds {stdev(values):.2f} ({seeds})"


def published(results: Sequence[Mapping[str, Any]]) -> str:
    """`98.7 ± 0.4: reproduced`, as each result file has it."""
    paper = results[0].get("paper")
    if not paper:
        return "–"
    value = f"{paper['accuracy']} ± {paper['ci95']}" if paper.get("ci95") else str(paper["accuracy"])
    return f"{value}: {', '.join(dict.fromkeys(r['paper']['verdict'] for r in results))}"


def training(results: Sequence[Mapping[str, Any]]) -> str:
    """`436 s, 1 thread`; of seeds the mean."""
    seconds = [r["timing"]["train_seconds"] for r in results if "train_seconds" in r["timing"]]
    if not seconds:
        return "–"
    where = results[0]["environment"]
    threads = where["threads"]
    device = f"{threads} thread{'s' if threads > 1 else ''}" if where["device"].startswith("cpu") else where["device"]
    return f"{fmean(seconds):.0f} s, {device}"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render(page.read_text()))
