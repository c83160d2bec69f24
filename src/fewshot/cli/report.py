"""`fewshot report DIR...`: what runs reached, as a table and as CSV. Layer 5."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot.cli.show import print_table
from fewshot.cli.words import Words, writing
from fewshot.errors import InputError


def main(argv: list[str]) -> int:
    from fewshot.report import runs

    parser = Words("fewshot report", description="Table and CSV of run folders.")
    parser.add_argument("paths", nargs="+", type=Path, help="run folders, or folders that hold them")
    parser.add_argument("--csv", type=Path, help="also write all columns to this file")
    args = parser.parse_args(argv)
    rows = [runs.row(folder) for folder in runs.find_runs(args.paths)]
    if not rows:
        raise InputError(f"no runs below {', '.join(map(str, args.paths))}; fewshot train makes one")
    _print(rows)
    if args.csv:
        with writing(args.csv):
            runs.write_csv(rows, args.csv)
        print(f"{len(rows)} runs in {args.csv}")
    return 0


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in (
        "run",
        "data",
        "ways",
        "shots",
        "seed",
        "steps",
        "accuracy %",
        "pixels",
        "untrained",
        "published",
    ):
        table.add_column(name, justify="left" if name in ("run", "data", "published") else "right")
    for r in rows:
        table.add_row(*_cells(r))
    print_table(table)


def _cells(r: Mapping[str, Any]) -> list[str]:
    if r["status"] != "finished":
        return [r["name"], "–", "–", "–", "–", str(r["steps"]), "unfinished", "–", "–", "–"]
    number = lambda v: "–" if v is None else f"{v:.2f}"  # noqa: E731
    published = f"{r['paper']} {r['verdict']}" if r["paper"] is not None else "–"
    accuracy = f"{r['accuracy']:.2f} ± {r['accuracy_ci95']:.2f}"
    return [r["name"], f"{r['dataset']} {r['split']}", str(r["ways"]), str(r["shots"]), str(r["seed"]), str(r["steps"]),
            accuracy, number(r["raw_pixels"]), number(r["untrained"]), published]  # fmt: skip
