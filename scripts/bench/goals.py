"""What scripts/bench/gpu.sh has measured, beside what it was to reach.

python scripts/bench/goals.py OUT
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import Row, table

FASTER, SLOWER = "at least", "at most"


def rows(folder: Path, bench: str, **wanted: Any) -> list[Row]:
    """Those of a part's file that have these values; none where the part was not finished."""
    file = folder / f"bench_{bench}_cuda.json"
    found = json.loads(file.read_text())["rows"] if file.exists() else []
    return [row for row in found if all(row.get(key) == value for key, value in wanted.items())]


def main(folder: Path) -> None:
    one, pool = {"case": "protonet, 1 task of 15 queries", "what": "train"}, {"network": "pool", "queries": 1}
    goals: list[tuple[str, str, float, list[Row], Callable[[Row], Any]]] = [
        ("ProtoNet, steps a second", FASTER, 3000, rows(folder, "graphs", **one), lambda r: r["steps/s"]),
        ("ProtoNet, data %", SLOWER, 15, rows(folder, "graphs", **one), lambda r: r["data %"]),
        ("MAML, stride, ms", SLOWER, 1.6, rows(folder, "maml", network="stride", queries=1), lambda r: r["ours ms"]),
        ("MAML, pool, jax / ours", FASTER, 3, rows(folder, "maml", **pool), lambda r: r["jax / ours"]),
        ("ResNet-12, images a second", FASTER, 25_000, rows(folder, "resnet12", what="all"),
         lambda r: r["ours images/s"]),
        ("weights, captured against eager", SLOWER, 0.01, rows(folder, "graphs", what="train"),
         lambda r: r.get("eager difference")),
    ]  # fmt: skip
    print(table([
        {"goal": name, "limit": f"{word} {limit:g}", "measured": value,
         "reached": None if value is None else value >= limit if word == FASTER else value <= limit,
         "of": row.get("case") or row.get("network") or row.get("what")}
        for name, word, limit, found, figure in goals
        for row in found or [{}]
        for value in [figure(row) if row else None]
    ]))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
