"""What a verb prints at its end. Layer 6."""

import io
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fewshot.engine.progress import announced
from fewshot.run_folder import RunFolder

WIDE = 1000  # columns, more than a table has
# Of the protocol in result.json, what a run has where nothing is set. The closing table names only what is otherwise.
USUAL: Mapping[str, Sequence[Any]] = {
    "queries_per_class": (5,), "checkpoint_rule": ("best",), "norm_statistics": ("batch",), "inner_steps_eval": (3,),
    "loss_reduction": ("mean",), "distance": ("squared_euclidean",), "rotations": ("none",), "resize": ("nearest",),
    "split": ("script", "vinyals"), "inverted": (True,), "query_balance": ("uniform",),
}  # fmt: skip
# Facts of the data and the code, which nobody sets.
FACTS = ("split_hash", "skipped_groups", "typefaces", "image_size", "stored_size", "normalization", "crop")


def terminal_width() -> int:
    """Columns; in a pipe or a file as many as are needed."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE


def print_table(table: Table) -> None:
    """As wide as the terminal; in a pipe or a file nothing is wrapped."""
    if sys.stdout.isatty():
        Console().print(table)
        return
    lines = Console(file=io.StringIO(), width=WIDE)
    lines.print(table)
    print("\n".join(line.rstrip() for line in lines.file.getvalue().splitlines()))  # type: ignore[attr-defined]


def print_wrapped(text: str) -> None:
    """Lines of text as wide as the terminal, broken between words."""
    for line in text.split("\n"):
        print("\n".join(textwrap.wrap(line, terminal_width(), break_long_words=False, break_on_hyphens=False)))


def percent(value: Mapping[str, Any] | None) -> str:
    """98.61 ± 0.21, or a dash."""
    return "–" if value is None else f"{value['accuracy']:.2f} ± {value['accuracy_ci95']:.2f}"


def draw(folder: RunFolder) -> None:
    """The pictures of a finished run."""
    from fewshot.report.figures import draw_finished  # late: half a second

    with announced("drawing figures"):
        draw_finished(folder)


def finished_run(folder: RunFolder) -> None:
    """The closing words of a run."""
    result_table(folder.result(), folder.path)
    costs_table(folder.path / "profile")


def result_table(result: Mapping[str, Any], folder: Path) -> None:
    """What was reached, the accuracy last, where the eye ends; of the protocol only what is not as usual."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in _result_rows(result, folder):
        table.add_row(label, text)
    print_table(table)


def _result_rows(result: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    yield "folder", escape(str(folder))
    timing = result["timing"]
    if "train_seconds" in timing:
        step, data = timing["seconds_per_step"], timing["data_seconds_per_step"]
        yield (
            "cost",
            (
                f"{timing['train_seconds']:.0f} s for {result['steps']} steps ({1000 * step:.0f} ms each, "
                f"data {100 * data / max(step, 1e-9):.1f} %), {_megabytes(timing['peak_memory_mb'])}"
            ),
        )
    if network := result.get("backbone"):
        size = "x".join(map(str, network["image_size"]))
        yield "network", escape(f"{network['name']}, {network['parameters']:,} weights, images of {size}")
    if unusual := unusual_protocol(result["protocol"]):
        yield "protocol", escape(", ".join(f"{key}={value}" for key, value in unusual.items()))
    if val := result.get("val"):
        yield "validation", f"{percent(val)} %, best at step {val['best_step']}"
    labels = {"raw_pixels": "nearest class mean of the pixels", "untrained": "the same model, untrained"}
    for name, value in (result.get("baselines") or {}).items():
        yield name.replace("_", " "), f"{percent(value)} %  {labels[name]}"
    verdict = ""
    if paper := result.get("paper"):
        interval = f" ± {paper['ci95']}" if paper.get("ci95") else ""
        yield "published", escape(f"{paper['accuracy']}{interval} % ({paper['source']})")
        verdict = f": {paper['verdict']}"
        if changed := paper.get("departures"):
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            verdict += escape(f", the recipe was changed ({'; '.join(changed[:3])}{more})")
    for warning in result.get("warnings") or ():
        yield "[bold]warning[/bold]", escape(warning)
    test = result["test"]
    if steps := test.get("inner_steps"):
        shown = [f"{step['accuracy']:.1f}" for step in steps]
        means = ", ".join(shown if len(shown) <= 8 else [*shown[:5], "...", *shown[-2:]])
        yield "inner steps", f"{means} %  after 0 to {len(steps) - 1} of them"
    task = f"{result['ways']}-way {result['shots']}-shot on {result['dataset']} {result['split']}"
    yield "task", f"{escape(task)}, {test['episodes']} episodes"
    yield "test accuracy", f"[bold]{percent(test)} %[/bold]{verdict}"


def _megabytes(value: float) -> str:
    return f"{value:.0f} MB" if value else "memory not known on this system"


def unusual_protocol(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What departs from the defaults, of a result's protocol. Nothing, no, none and 0 are usual for every key."""
    settings = {key: value for key, value in protocol.items() if key not in FACTS}
    if not settings.get("inner_steps_eval"):  # without an inner loop there is no choice of statistics
        settings.pop("norm_statistics", None)
    return {key: value for key, value in settings.items() if value and value not in USUAL.get(key, ())}


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
