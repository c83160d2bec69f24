"""Heads for own pictures, compared over random draws: python scripts/own_pictures.py NAME=DIR ...

Each DIR has a folder of pictures for each class. From each class 1, 2 and 5 pictures are drawn, 50 times; all others
are classified. The table says how many are right, with the 95 % interval of the mean over draws. Below it: the
estimate by leaving out beside the true accuracy, the calibration error, and how well strangers are told (one class
left out of the support: AUROC of the top probability). docs/results/own_pictures.json has the numbers.

With --fine-tuned DRAWS instead: adapt=all beside adapt=head on the same draws of 5 pictures of each class.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch

from fewshot.cli.own_pictures import Words, feature_cache
from fewshot.feature_heads import HEADS, Array, fit
from fewshot.features import FeatureCache
from fewshot.folders import class_folder
from fewshot.prediction import Z95, accuracy, has_others, scale_of, softmax

DRAWS, SHOTS, SPLITS = 50, (1, 2, 5), 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--json", type=Path, default=Path("docs/results/own_pictures.json"))
    parser.add_argument("--fine-tuned", type=int, metavar="DRAWS")
    args = parser.parse_args()
    if args.fine_tuned:
        for word in args.folders:
            fine_tuned(*word.partition("=")[::2], draws=args.fine_tuned)
        return
    found = {}
    for word in args.folders:
        name, _, folder = word.partition("=")
        z, y, _ = features(Path(folder))
        found[name] = {"heads": {shots: heads(z, y, shots) for shots in SHOTS}, "honest": honest(z, y)}
    args.json.write_text(json.dumps(found, indent=1) + "\n")
    print(tables(found))


def features(folder: Path, *words: str) -> tuple[Array, Array, FeatureCache]:
    """What `fewshot predict` keeps of the pictures, [M, V, ...], their classes [M], and the method in its cache."""
    files = class_folder(folder)
    names = sorted(set(files.labels))
    cache = feature_cache(Words("predict", [f"support={folder}", *words], {}, {}))
    kept = np.stack([k.features for k in cache.embed(files.paths)[0] if k])
    return kept, np.array([names.index(label) for label in files.labels]), cache


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


def fine_tuned(name: str, folder: str, *, draws: int) -> None:
    """Each draw on a line: percent right of both; then the mean difference with its interval."""
    z, y, _ = features(Path(folder))
    x, _, tuning = features(Path(folder), "adapt=all")
    ways, differences = int(y.max()) + 1, []
    for seed in range(draws):
        support, query = draw(y, 5, seed)
        head, _ = fit("ridge", z[support], y[support], ways)
        model = tuning.method.fitted(x[support], y[support], ways)
        with torch.no_grad():
            tuned = torch.cat([model(torch.from_numpy(x[i]).float() / 255) for i in query])
        before, after = (100 * (s.argmax(-1) == y[query]).mean() for s in (head.scores(z[query]), tuned.numpy()))
        differences.append(after - before)
        print(f"{name}, draw {seed}: head {before:.1f}, all {after:.1f}", flush=True)
    half = Z95 * np.std(differences, ddof=1) / math.sqrt(draws) if draws > 1 else math.nan
    print(f"{name}: adapt=all is better by {np.mean(differences):.1f} ± {half:.1f} points", flush=True)


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
