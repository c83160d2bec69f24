"""A report as Markdown, LaTeX and CSV. Layer 5."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from fewshot import text
from fewshot.report import tables
from fewshot.report.report import Report
from fewshot.report.runs import RunRecord
from fewshot.report.settings import differing
from fewshot.report.table import latex as latex_table
from fewshot.report.table import markdown as markdown_table


def markdown(report: Report) -> str:
    """The finding, then results, pairs, papers, cost and what is missing, as Markdown tables."""
    these = (report.groups, report.names)
    parts = [("Results", report.pivot), ("All settings", tables.results(*these, report.marks)),
             ("Pairs", tables.pairs(report.comparison, *these)), ("Paper and ours", tables.papers(*these)),
             ("Cost", tables.cost(*these)), ("Not finished", report.unfinished)]  # fmt: skip
    said = f"# {text.markdown(report.headline)}\n\n{text.markdown(report.title)}: {text.markdown(report.summary())}.\n"
    said += "".join(f"\n{text.markdown(line)}.\n" for line in report.warnings())
    if report.details:
        said += "\n" + "".join(f"- {text.markdown(sentence)}\n" for sentence in report.details)
    for sentence in filter(None, [report.below_pixels and f"{report.below_pixels}.", report.method]):
        said += f"\n{text.markdown(sentence)}\n"
    return said + "".join(f"\n## {title}\n\n{markdown_table(table)}" for title, table in parts if table.rows)


def latex(report: Report) -> str:
    """The table of algorithms and tasks, for a paper."""
    said = [report.headline, *report.details, report.method]
    comment = "".join(f"% {text.latex(line)}\n" for line in said if line)
    return f"{comment}% \\usepackage{{booktabs}}\n{latex_table(report.pivot)}"


def csv_file(runs: Sequence[RunRecord]) -> str:
    """A line for every run: what it reached, every setting in which the runs differ, and its protocol."""
    rows = [{**_row(run), **more} for run, more in zip(runs, _settings_and_protocol(runs), strict=True)]
    names = list(dict.fromkeys(key for row in rows for key in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\r\n")
    writer.writerow({name: text.csv_cell(name) for name in names})
    writer.writerows({key: text.csv_cell(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def _settings_and_protocol(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Columns named by the path of a key, and `protocol.<key>`."""
    keys = [key for keys in differing([run.setting for run in runs]) for key in keys] if runs else []
    keys = [key for key in keys if key not in ("ways", "shots", "queries")]
    settings = [{key: run.setting.get(key) for key in keys} for run in runs]
    protocols = [run.result["protocol"] if run.finished else {} for run in runs]
    stated = list(dict.fromkeys(key for protocol in protocols for key in protocol))
    return [
        setting | {f"protocol.{key}": protocol.get(key) for key in stated}
        for setting, protocol in zip(settings, protocols, strict=True)
    ]


def _row(run: RunRecord) -> dict[str, Any]:
    """One run; an unfinished one says how far it came."""
    result: Mapping[str, Any] = run.result if run.finished else {}
    asked = result if run.finished else run.config
    timing, paper, base = (result.get(key) or {} for key in ("timing", "paper", "baselines"))
    test = result.get("test") or {}
    network = run.network
    return {
        "name": run.name, "kind": run.kind, "algorithm": result.get("algorithm"), "backbone": network.name,
        "parameters": network.parameters, "image_size": network.image_size, "dataset": result.get("dataset"),
        "split": result.get("split"), **{key: asked.get(key) for key in ("ways", "shots", "queries", "seed")},
        "steps": run.steps, **{key: test.get(key) for key in ("accuracy", "accuracy_ci95", "episodes")},
        **{key: (base.get(key) or {}).get("accuracy") for key in ("raw_pixels", "untrained")},
        "paper": paper.get("accuracy"), "verdict": paper.get("verdict"),
        **{key: timing.get(key) for key in ("train_seconds", "seconds_per_step", "peak_memory_mb")},
        "status": "finished" if run.finished else "unfinished", "folder": str(run.path),
    }  # fmt: skip
