"""What unbalanced queries cost a transductive method: docs/results/balance_DATASET.json, a table of
docs/protocols.md.

    python scripts/balance.py OUTPUTS QUERIES EPISODES RUN [RUN ...]

RUN: folders of trained classifiers that differ in seed. Every head is tested on the same EPISODES of their
features, 5-way 1-shot and 5-shot, with QUERIES queries of each class, and with 5 * QUERIES in all whose classes
are drawn (Dirichlet, concentration 2). A class needs 5 + 5 * QUERIES images: 3 on Omniglot, 15 on CIFAR-FS. The same
command again evaluates what is missing.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
HEADS = ("simpleshot", "ridge", "logistic_regression", "tim", "alpha_tim", "laplacianshot", "bd_cspn", "pt_map")
SHOTS, BALANCES = (1, 5), ("uniform", "dirichlet")


def evaluate(outputs: Path, queries: int, episodes: int, run: Path) -> None:
    words = [f"run={run}", f"output_dir={outputs}", f"name=balance_{run.name}", f"algorithm={','.join(HEADS)}",
             "shots=1,5", f"queries={queries}", f"evaluation.query_balance={','.join(BALANCES)}",
             f"evaluation.episodes={episodes}", "augment=none"]  # fmt: skip
    subprocess.run([Path(sys.executable).with_name("fewshot"), "evaluate", "-m", *words], check=True)


def results(outputs: Path) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Each evaluation's result.json, and the accuracy of its episodes in percent."""
    found = sorted(outputs.glob("sweeps/balance_*/*/result.json"))
    return [(json.loads(f.read_text()), np.load(f.parent / "episodes" / "test.npz")["accuracy"]) for f in found]


def row(algorithm: str, shots: int, done: Sequence[tuple[Mapping[str, Any], np.ndarray]]) -> dict[str, Any]:
    """Mean over the runs, with the 95 % interval over episodes, for both kinds of queries."""
    mean, half, protocol = {}, {}, {}
    for balance in BALANCES:
        of = [(r, a) for r, a in done if (r["algorithm"], r["shots"]) == (algorithm, shots)
              and str(r["protocol"]["query_balance"]).startswith(balance)]  # fmt: skip
        accuracy = np.mean([a for _, a in of], axis=0)  # [E]
        mean[balance], half[balance] = accuracy.mean(), 1.96 * accuracy.std(ddof=1) / len(accuracy) ** 0.5
        protocol = of[0][0]["protocol"]
    fall = mean["uniform"] - mean["dirichlet"]
    return {
        "method": algorithm, "shots": shots, "queries judged": "together" if protocol["transductive"] else "alone",
        "assumes of queries": protocol.get("assumes_of_queries", "–"),
        **{f"{b} %": f"{mean[b]:.2f} ± {half[b]:.2f}" for b in BALANCES},
        "fall": f"{fall:.2f} ± {(half['uniform'] ** 2 + half['dirichlet'] ** 2) ** 0.5:.2f}",
    }  # fmt: skip


def main(outputs: str, queries: str, episodes: str, *runs: str) -> None:
    for run in runs:
        evaluate(Path(outputs), int(queries), int(episodes), Path(run))
    done = results(Path(outputs))
    rows = [row(algorithm, shots, done) for shots, algorithm in itertools.product(SHOTS, HEADS)]
    command = f"python scripts/balance.py OUTPUTS {queries} {episodes}{' RUN' * len(runs)}"
    text = json.dumps({"command": command, "rows": rows}, indent=1, ensure_ascii=False)
    (ROOT / "docs" / "results" / f"balance_{done[0][0]['dataset']}.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
