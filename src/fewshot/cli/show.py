"""What a verb says at its end. Layer 6."""

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

WIDE = 1000  # columns, more than a table has


def print_table(table: Table) -> None:
    """As wide as the terminal; in a pipe or a file nothing is wrapped."""
    if sys.stdout.isatty():
        Console().print(table)
        return
    lines = Console(file=io.StringIO(), width=WIDE)
    lines.print(table)
    print("\n".join(line.rstrip() for line in lines.file.getvalue().splitlines()))  # type: ignore[attr-defined]


def percent(value: Mapping[str, Any] | None) -> str:
    """98.61 ± 0.21, or a dash."""
    return "–" if value is None else f"{value['accuracy']:.2f} ± {value['accuracy_ci95']:.2f}"


def result_table(result: Mapping[str, Any], folder: Path) -> None:
    """What was reached, on what, under which protocol, and where everything lies."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    what = f"{result['ways']}-way {result['shots']}-shot, {result['test']['episodes']} episodes"
    what += f" of split '{result['split']}'"
    table.add_row("test accuracy", f"[bold]{percent(result['test'])} %[/bold]   ({what} of {result['dataset']})")
    for name, value in (result.get("baselines") or {}).items():
        label = {"raw_pixels": "nearest class mean on raw pixels", "untrained": "the same, untrained"}[name]
        table.add_row(label, f"{percent(value)} %")
    if result.get("val"):
        table.add_row("validation", f"{percent(result['val'])} %, best at step {result['val']['best_step']}")
    if paper := result.get("paper"):
        around = f" ± {paper['ci95']}" if paper.get("ci95") else ""
        table.add_row("published", f"{paper['accuracy']}{around} % ({paper['source']}): {paper['verdict']}")
    facts = [f"{k}={v}" for k, v in result["protocol"].items() if v is not None]
    table.add_row("protocol", ", ".join(facts))
    timing = result["timing"]
    if "train_seconds" in timing:
        table.add_row(
            "cost",
            f"{timing['train_seconds']:.0f} s for {result['steps']} steps "
            f"({timing['seconds_per_step'] * 1000:.0f} ms each, "
            f"data {100 * timing['data_seconds_per_step'] / max(timing['seconds_per_step'], 1e-9):.1f} %), "
            f"{timing['test_episodes_per_second']:.0f} test episodes/s, {timing['peak_memory_mb']:.0f} MB",
        )
    table.add_row("folder", str(folder))
    print_table(table)


def costs_table(folder: Path) -> None:
    """What `trainer.profile` found, where it was asked for."""
    if not (folder / "costs.json").exists():
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("largest costs of a step", overflow="fold")
    for heading in ("calls", "ms", "%"):
        table.add_column(heading, justify="right")
    for cost in json.loads((folder / "costs.json").read_text()):
        table.add_row(cost["operation"], f"{cost['calls']:g}", f"{cost['ms']:.2f}", f"{cost['percent']:.1f}")
    print_table(table)
    print(f"all of them: {folder / 'trace.json'} (open it in ui.perfetto.dev)")
