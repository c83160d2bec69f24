"""Heads for own pictures, compared over random draws: python scripts/own_pictures.py NAME=DIR ...

Each DIR has a folder of pictures for each class. From each class 1, 2 and 5 pictures are drawn, 50 times; all others
are classified. The table says how many are right, with the 95 % interval of the mean over draws. Below it: the
estimate by leaving out beside the true accuracy, the calibration error, and how well strangers are told (one class
left out of the support: AUROC of the top probability). docs/results/own_pictures.json has the numbers.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np

from fewshot.cli.own_pictures import Words, feature_cache
from fewshot.feature_heads import HEADS, Array, fit
from fewshot.folders import class_folder
from fewshot.prediction import Z95, accuracy, has_others, scale_of, softmax

DRAWS, SHOTS, SPLITS = 50, (1, 2, 5), 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--json", type=Path, default=Path("docs/results/own_pictures.json"))
    args = parser.parse_args()
    found = {}
    for word in args.folders:
        name, _, folder = word.partition("=")
        z, y = features(Path(folder))
        found[name] = {"heads": {shots: heads(z, y, shots) for shots in SHOTS}, "honest": honest(z, y)}
    args.json.write_text(json.dumps(found, indent=1) + "\n")
    print(tables(found))


def features(folder: Path) -> tuple[Array, Array]:
    """What `fewshot predict` keeps of the pictures, [M, V, D], and their classes [M]."""
    files = class_folder(folder)
    names = sorted(set(files.labels))
    known = feature_cache(Words("predict", [f"support={folder}"], {}, {})).embed(files.paths)[0]
    return np.stack([k.features for k in known if k]), np.array([names.index(label) for label in files.labels])


def draw(y: Array, shots: int, seed: int) -> tuple[Array, Array]:
    """Rows of the support, class-major, and of the queries."""
    order = np.random.default_rng(seed).permutation(len(y))
    support = np.concatenate([order[y[order] == c][:shots] for c in range(y.max() + 1)])
    return support, np.setdiff1d(order, support)


def heads(z: Array, y: Array, shots: int) -> dict[str, tuple[float, float]]:
    """Head -> mean and half of its interval, over the draws."""
    right: dict[str, list[float]] = {}
    for seed in range(DRAWS):
        support, query = draw(y, shots, seed)
        for views in (1, z.shape[1]):
            for kind in HEADS:
                head, _ = fit(kind, z[support, :views], y[support], int(y.max()) + 1)
                hits = head.scores(z[query, :views]).argmax(-1) == y[query]
                right.setdefault(f"{kind}, {views} view{'s' * (views > 1)}", []).append(100 * hits.mean())
    return {name: (np.mean(all_), Z95 * np.std(all_, ddof=1) / math.sqrt(DRAWS)) for name, all_ in right.items()}


def honest(z: Array, y: Array) -> dict[str, float]:
    """Over 20 draws of 5 pictures a class: estimate beside truth, calibration, and strangers."""
    rows = []
    ways = int(y.max()) + 1
    for seed in range(SPLITS):
        support, query = draw(y, 5, 1000 + seed)
        head, left_out = fit("ridge", z[support], y[support], ways)
        scores, told = head.scores(z[query]), has_others(y[support])
        estimate = accuracy(left_out[told].argmax(-1) == y[support][told])
        truth = accuracy(scores.argmax(-1) == y[query])
        assert estimate is not None
        assert truth is not None
        scale = scale_of(left_out, y[support])
        before, after = (calibration_error(softmax(s * scores), y[query]) for s in (1.0, scale))
        stranger = seed % ways
        own = support[y[support] != stranger]
        label = y[own] - (y[own] > stranger)
        head, left_out = fit("ridge", z[own], label, ways - 1)
        top = softmax(scale_of(left_out, label) * head.scores(z[query])).max(-1)
        rows.append((estimate.value, truth.value, float(estimate.low <= truth.value <= estimate.high), before, after,
                     auroc(top[y[query] != stranger], top[y[query] == stranger])))  # fmt: skip
    names = ("estimate", "truth", "covered", "calibration_error_before", "calibration_error", "auroc")
    return dict(zip(names, np.mean(rows, 0).tolist(), strict=True))


def calibration_error(p: Array, y: Array, bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3), percent."""
    top, right = p.max(-1), p.argmax(-1) == y
    place = np.minimum((top * bins).astype(int), bins - 1)
    return float(100 * sum(abs((right - top)[place == b].sum()) for b in range(bins)) / len(y))


def auroc(high: Array, low: Array) -> float:
    """How often one of `high` is above one of `low`, percent; ties count half."""
    difference = high[:, None] - low
    return float(100 * ((difference > 0) + (difference == 0) / 2).mean())


def tables(found: dict) -> str:
    """The tables of docs/pictures.md."""
    columns = [(name, shots) for name in found for shots in SHOTS]
    lines = ["| head | " + " | ".join(f"{name}, {shots}" for name, shots in columns) + " | mean |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    first = next(iter(found.values()))
    for head in first["heads"][SHOTS[0]]:
        cells = [found[name]["heads"][shots][head] for name, shots in columns]
        mean = sum(value for value, _ in cells) / len(cells)
        lines.append(f"| {head} | " + " | ".join(f"{v:.1f} ± {w:.1f}" for v, w in cells) + f" | {mean:.1f} |")
    lines += ["", "| folder, 5 pictures a class | left out | true | interval covers | calibration error | AUROC |"]
    lines.append("|---" * 6 + "|")
    for name, one in found.items():
        h = one["honest"]
        lines.append(
            f"| {name} | {h['estimate']:.1f} | {h['truth']:.1f} | {100 * h['covered']:.0f} % | "
            f"{h['calibration_error_before']:.1f} -> {h['calibration_error']:.1f} | {h['auroc']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
