"""`fewshot predict support=DIR query=DIR`: own pictures, classified by a few labelled ones. Layer 6."""

import csv
import glob
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot.cli.own_pictures import OF_BOTH, Words, feature_cache, progress
from fewshot.cli.words import check_writable, write
from fewshot.errors import InputError
from fewshot.text import csv_cell

if TYPE_CHECKING:
    from fewshot.own_pictures.prediction import Prediction

HELP = f"""fewshot predict support=DIR query=DIR [run=RUN] [KEY=VALUE ...]: classify pictures by a few labelled ones

  query=DIR        the pictures to classify; also a file, a pattern ('new/*.jpg'), or several with commas between
{OF_BOTH}  out=FILE.csv     path, label, probability, runner-up, and a column for each class
  html=FILE.html   a page to look at: every query beside the support pictures most like it, least certain first
  unknown=P        call pictures unknown that are like none of the classes; P (0.05) of the known ones will be, too
"""
KEYS = {"query": None, "out": None, "html": None, "unknown": None}
SHOWN = 40  # rows in the terminal


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(HELP, end="")
        return 0
    words = Words("predict", argv, KEYS, {"support": "DIR", "query": "DIR"})
    keys = words.keys
    query = _files(keys["query"])
    for key in ("out", "html"):
        if keys[key]:
            check_writable(Path(keys[key]))

    from fewshot.own_pictures.prediction import predict

    found = predict(
        Path(keys["support"]), query, feature_cache(words), unknown=keys["unknown"],
        skip=keys["unreadable"] == "skip", progress=progress,
    )  # fmt: skip
    _print(found)
    if keys["out"]:
        _write_csv(found, Path(keys["out"]))
    if keys["html"]:
        from fewshot.report.predicted import page

        content = page(found)
        write(path := Path(keys["html"]), content)
        print(f"page: {path} ({len(content) / 1e6:.2g} MB)")
    return 0


def _files(query: str) -> list[Path]:
    """query=DIR, FILE, a pattern, or several of them with commas between; [a, b] is read as Hydra writes it."""
    if Path(query).exists():
        return [Path(query)]
    found: list[Path] = []
    for part in query.strip("[]").split(","):
        name = part.strip().strip("'\"")
        matching = sorted(glob.glob(name, recursive=True)) or [name]  # noqa: PTH207  from any root
        if not Path(matching[0]).exists():
            raise InputError(f"query={name}: there is no such file or folder")
        found += map(Path, matching)
    return found


def _print(found: "Prediction") -> None:
    from rich.table import Table
    from rich.text import Text

    from fewshot.cli.show import print_table, print_wrapped
    from fewshot.own_pictures.prediction import pictures_per_class
    from fewshot.own_pictures.scores import advice, mixed_up

    order = found.order()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, side in (("query", "left"), ("label", "left"), ("%", "right"), ("runner-up", "left"), ("%", "right")):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    for i in order[:SHOWN]:
        best = 100 * found.probabilities[i][found.best(i)]
        true = found.truth[i] if found.truth else None
        wrong = " ✗" if true in found.support.names and true != found.label(i) else ""
        row = (found.name(i), found.label(i) + wrong, f"{best[0]:.0f}", found.runner_up(i), f"{best[1]:.0f}")
        table.add_row(*map(Text, row))
    print_table(table)
    if len(order) > SHOWN:
        print(f"the {SHOWN} least certain of {len(order)}; out=FILE.csv has all")
    counts = pictures_per_class(found.support)
    low, high = min(counts.values()), max(counts.values())
    each = f"{low}" if low == high else f"{low} to {high}"
    print()
    print_wrapped(f"learned from {len(found.support.paths)} pictures of {len(counts)} classes, {each} each")
    for note in found.notes:
        print_wrapped(note)
    if found.findings.accuracy:
        print_wrapped(f"expected accuracy: {found.findings.accuracy}, each support picture judged by the others")
    if line := mixed_up(found.findings, found.support.names):
        print_wrapped(line)
    print_wrapped(advice(found.findings, found.support.names))
    if found.unknown is not None:
        print_wrapped(
            f"unknown: {int(found.unknown.sum())} pictures, with less than {100 * (found.threshold or 0):.0f} %"
        )
    if found.accuracy:
        print_wrapped(f"true accuracy, by the folders of query: {found.accuracy}")


def _write_csv(found: "Prediction", path: Path) -> None:
    truth = ["true"] if found.truth else []
    file = io.StringIO()
    rows = csv.writer(file)
    rows.writerow(map(csv_cell, ["path", "label", "probability", "runner_up", *truth, *found.support.names]))
    for i, query in enumerate(found.query):
        p = found.probabilities[i]
        true = [found.truth[i]] if found.truth else []
        numbers = [f"{v:.6f}" for v in p]
        named = [os.fspath(query), found.label(i), max(numbers), found.runner_up(i), *true]
        rows.writerow([*map(csv_cell, named), *numbers])
    write(path, file.getvalue())
    print(f"{len(found.query)} rows in {path}")
