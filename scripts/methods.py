"""The comparison of all methods that scripts/methods.sh has run: docs/results/methods_DATASET.json, a table of docs.

    python scripts/methods.py OUTPUTS DATASET [COMMAND]

Accuracy of 5-way 1-shot and 5-shot episodes, each averaged over the seeds, with the 95 % interval over episodes; the
difference from ProtoNet on the same episodes with its own interval, in bold where they can be told apart (5 %, Holm's
correction over all methods of the column); milliseconds of a training step (the fastest seed). Best one-shot first.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from fewshot.metrics import Mean
from fewshot.report.comparison import LEVEL, holm, p_value, paired
from fewshot.report.groups import Group, grouped
from fewshot.report.runs import RunRecord, read_runs

ROOT = Path(__file__).resolve().parents[1]
SHOTS = (1, 5)


def main(outputs: str, data: str, command: str = "scripts/methods.sh OUTPUTS DATASET STEPS") -> None:
    runs, damaged = read_runs([Path(outputs) / data])
    if damaged:
        raise SystemExit("\n".join(damaged))
    found = {(g.result["algorithm"], g.result["shots"]): g for g in grouped(r for r in runs if not classifier(r))}
    names = {name for name, _ in found if all((name, shots) in found for shots in SHOTS)}
    against = {shots: differences({name: found[name, shots] for name in names}) for shots in SHOTS}
    steps = {r.path.name: step_ms(r) for r in runs if r.finished and r.kind == "train"}
    rows: list[dict[str, Any]] = []
    for name in sorted(names, key=lambda name: -found[name, 1].accuracy):
        groups = [found[name, shots] for shots in SHOTS]
        row: dict[str, Any] = {"method": name}
        for shots, group in zip(SHOTS, groups, strict=True):
            row[f"{shots}-shot %"] = f"{group.accuracy:.2f} ± {group.ci95:.2f}"
            row[f"{shots}-shot, minus ProtoNet"] = against[shots].get(name, "–")
        row["seeds"] = len(groups[0].runs)
        row["queries judged"] = "together" if groups[0].result["protocol"]["transductive"] else "alone"
        for shots, group in zip(SHOTS, groups, strict=True):
            row[f"{shots}-shot, ms per step"] = round(min(steps[training(run)] for run in group.runs))
        rows.append(row)
    text = json.dumps({"command": command, "rows": rows}, indent=1, ensure_ascii=False) + "\n"
    (ROOT / "docs" / "results" / f"methods_{data}.json").write_text(text)
    print(text)


def classifier(run: RunRecord) -> bool:
    """A training that heads share: its own test is that of the head simpleshot, evaluated with the others."""
    return "classifiers" in run.path.parts


def training(run: RunRecord) -> str:
    """The folder's name of the training behind a run."""
    return Path(run.result["run"]).name if run.kind == "evaluate" else run.path.name


def step_ms(run: RunRecord) -> float:
    """The median over the rows of metrics.jsonl: other work on the machine moves a mean."""
    rows = [(row["step"], row["time/seconds"]) for row in run.metrics if "time/seconds" in row]
    return 1e3 * median((t - s) / (n - m) for (m, s), (n, t) in pairwise(rows))


def differences(groups: dict[str, Group]) -> dict[str, str]:
    """Each method but ProtoNet: its accuracy minus ProtoNet's."""
    pairs: dict[str, Mean] = {n: paired(g, groups["protonet"]) for n, g in groups.items() if n != "protonet"}
    corrected = dict(zip(pairs, holm([p_value(d) for d in pairs.values()]), strict=True))
    texts = {n: f"{d.value:+.2f} ± {d.ci95:.2f}" for n, d in pairs.items()}
    return {n: f"**{text}**" if corrected[n] <= LEVEL else text for n, text in texts.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
