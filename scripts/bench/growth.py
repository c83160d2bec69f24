"""How time and memory of a step grow with tasks, inner steps, shots, image size, and images in the data set.

    python scripts/bench/growth.py [--quick] [--json docs/results/bench_growth.json] [--device cuda]

MAML's step, second order, from 8 tasks, 5-way 1-shot 1-query, 1 inner step, 28x28 images, Conv4-64 with strides; one
of these varied at a time, each point in a process of its own. Inner steps are also measured with
algorithm.checkpoint_inner. For images in the data set it is the drawing of ProtoNet's 360 images a step from a
memory-mapped file (of noise, made in a temporary folder); its memory is pages of that file, which the kernel may take
back, and is left out.

Columns: exponent and memory exponent are the slopes of log time and log memory against log n, fitted by least
squares over the larger half of the points: constant costs bend the smaller half down (image size counts pixels on
a side, so 2 is linear in pixels). MB per unit is the slope of memory against n over the same points. With --json a
plot is written beside the file (bench_growth.png): log-log, time above and memory below, each relative to its
largest point; parallel to the dashed line is linear.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import maml
import sampling
from measuring import Measured, Row, alone, arguments, measure, report
from plain import Shape

BASE = {"tasks": 8, "shots": 1, "size": 28, "inner steps": 1}
POINTS = {
    "tasks": (2, 4, 8, 16, 32, 64),
    "inner steps": (1, 2, 4, 8, 12, 16),
    "inner steps, checkpointed": (1, 2, 4, 8, 12, 16),
    "shots": (1, 2, 4, 8, 16),
    "image size": (28, 42, 56, 84, 112),
    "images in the data set": (10_000, 100_000, 300_000, 1_000_000),
}
QUICK = {"tasks": (1, 2, 3), "images in the data set": (1_200, 2_400, 4_800)}


def point(against: str, n: int, device: str, quick: bool) -> Measured:
    """One measurement."""
    if against.startswith("images"):
        shape = sampling.CASES["ProtoNet 60-way 1-shot"][1]._replace(device=device)
        row = sampling.ours("protonet", shape, n, quick)
        return Measured(row["draw ms"], row["MB"], 0.0)
    name = {"image size": "size"}.get(against, against)
    values = BASE | ({"size": 16} if quick else {}) | {name.split(",")[0]: n}
    shape = Shape("stride", values["tasks"], shots=values["shots"], size=values["size"], device=device)
    case = maml.Case(shape._replace(filters=4) if quick else shape, values["inner steps"])
    more = ["algorithm.checkpoint_inner=true"] if against.endswith("checkpointed") else []
    return measure(maml.our_step(case, *more)[0], device, quick=quick, seconds=1.0)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the least squares line."""
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def series(against: str, points: Sequence[int], device: str, quick: bool) -> Row:
    measured = [alone(quick, point, against, n, device, quick) for n in points]
    ms, mb = [m.ms for m in measured], [max(m.mb, 0.1) for m in measured]
    mapped = against.startswith("images")
    half = slice(len(points) // 2 - (1 if len(points) < 6 else 0), None)  # at least three
    log_n = [math.log(n) for n in points[half]]
    return {
        "exponent": slope(log_n, [math.log(v) for v in ms[half]]),
        "memory exponent": None if mapped else slope(log_n, [math.log(v) for v in mb[half]]),
        "against": against, "n": list(points), "ms": ms, "MB": None if mapped else mb,
        "MB per unit": None if mapped else slope(points[half], mb[half]),
        "others %": max(m.others for m in measured),
    }  # fmt: skip


def plot(rows: Sequence[Row], path: Path) -> None:
    """Two panels: time and memory."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharex=True, sharey=True)
    for panel, key, exponent, title in zip(panels, ("ms", "MB"), ("exponent", "memory exponent"),
                                           ("time of a step", "peak memory above idle"), strict=True):  # fmt: skip
        panel.plot([1 / 64, 1], [1 / 64, 1], "--", color="0.6", label="linear")
        for row in rows:
            if row[key] is None:
                continue
            x, y = ([v / row[k][-1] for v in row[k]] for k in ("n", key))
            panel.plot(x, y, "o-", markersize=4, label=f"{row['against']}: {row[exponent]:.2f}")
        panel.set(xscale="log", yscale="log", title=f"{title}; exponent", xlabel="n, relative to the largest")
        panel.grid(color="0.9")
        panel.legend(fontsize=8)
    panels[0].set_ylabel("relative to the largest")
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    rows: list[Row] = []
    for against, points in (QUICK if args.quick else POINTS).items():
        if against.endswith("checkpointed") and not maml.has_option("checkpoint_inner"):
            print("algorithm.checkpoint_inner is not there yet, its row is left out")
            continue
        rows.append(series(against, points, args.device, args.quick))
        print(rows[-1], flush=True)
    report("growth", args, rows)
    if args.json:
        plot(rows, args.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
