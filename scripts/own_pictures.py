"""Heads for own pictures, compared over random draws: python scripts/own_pictures.py NAME=DIR ...

Each DIR has a folder of pictures for each class. From each class 1, 2 and 5 pictures are drawn, 50 times; all others
are classified: how many are right, with the 95 % interval of the mean over draws. Then the estimate by leaving out
beside the true accuracy, the calibration error, and how well strangers are told (one class left out of the support:
AUROC of the top probability); once more without classes that hold the very same pictures as another.

With --fine-tuned DRAWS instead: adapt=all beside adapt=head on the same draws of 5 pictures of each class.

The files docs/results/own_pictures_*.json have the numbers, and the rows of the tables that `make results` writes.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fewshot.cli.own_pictures import Words, feature_cache
from fewshot.folders import class_folder
from fewshot.own_pictures.features import FeatureCache
from fewshot.own_pictures.heads import HEADS, fit
from fewshot.own_pictures.scores import Z95, accuracy, has_others, scale_of, softmax
from fewshot.own_pictures.unit_features import Array
from fewshot.pictures import Pictures

RESULTS = Path(__file__).parents[1] / "docs" / "results"
DRAWS, SHOTS, SPLITS = 50, (1, 2, 5), 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--fine-tuned", type=int, metavar="DRAWS")
    args = parser.parse_args()
    folders = {name: Path(folder) for name, _, folder in (word.partition("=") for word in args.folders)}
    command = " ".join(["python scripts/own_pictures.py", *(f"{name}=DIR" for name in folders)])
    if args.fine_tuned:
        command += f" --fine-tuned {args.fine_tuned}"
        tuned = {name: fine_tuned(name, folder, draws=args.fine_tuned) for name, folder in folders.items()}
        write(args.results / "own_pictures_fine_tuned.json", command, [tuned_row(*one) for one in tuned.items()], tuned)
        return
    by_head: dict[str, dict[str, list[float]]] = {}
    by_folder: dict[str, dict[str, Any]] = {}
    for name, folder in folders.items():
        kept = features(folder)
        centre = centre_crops(kept)
        for shots in SHOTS:
            for head, right in heads(kept.z, kept.y, shots, centre).items():
                by_head.setdefault(head, {})[f"{name}, {shots}"] = right
        by_folder[name] = honest(kept.z, kept.y)
        if double := same_pictures(kept):
            stay = ~np.isin(kept.y, double)
            fewer = np.unique(kept.y[stay], return_inverse=True)[1]
            by_folder[f"{name}, {fewer.max() + 1} classes"] = honest(kept.z[stay], fewer)
    write(args.results / "own_pictures_heads.json", command, [head_row(*one) for one in by_head.items()], by_head)
    write(args.results / "own_pictures_honest.json", command, [honest_row(*o) for o in by_folder.items()], by_folder)


def write(file: Path, command: str, rows: Sequence[dict[str, str]], numbers: Any) -> None:
    """One result file; the rows are what its table shows."""
    file.write_text(json.dumps({"command": command, "rows": rows, "numbers": numbers}, indent=1) + "\n")
    for row in rows:
        print(" | ".join(f"{column} {cell}" for column, cell in row.items()))


class Kept(NamedTuple):
    """What `fewshot predict` keeps of the pictures of a folder."""

    z: Array  # [M, V, ...]
    y: Array  # [M]
    paths: list[Path]
    pixels: list[str]  # hashes
    cache: FeatureCache


def features(folder: Path, *words: str) -> Kept:
    files = class_folder(folder)
    names = sorted(set(files.labels))
    cache = feature_cache(Words("predict", [f"support={folder}", *words], {}, {}))
    known = [one for one in cache.look_at(files.paths)[0] if one]
    y = np.array([names.index(label) for label in files.labels])
    return Kept(cache.features(known), y, files.paths, [one.pixels for one in known], cache)


def centre_crops(kept: Kept) -> Array:
    """[M, 1, D] of what other tools show a network: its middle square of the resized picture."""
    network: Any = kept.cache.method.network  # type: ignore[attr-defined]
    told = network.input
    pictures = Pictures(image_shape=(3, told.size, told.size), side=told.resize, resize=told.interpolation)
    with torch.no_grad():
        return np.stack([network(pictures.read([path]).float() / 255).numpy() for path in kept.paths])


def same_pictures(kept: Kept) -> list[int]:
    """Classes all of whose pictures, by their pixels, are in one class before them."""
    of = [{p for p, c in zip(kept.pixels, kept.y, strict=True) if c == way} for way in range(kept.y.max() + 1)]
    return [c for c in range(len(of)) if any(of[c] <= before for before in of[:c])]


def draw(y: Array, shots: int, seed: int) -> tuple[Array, Array]:
    """Rows of the support, class-major, and of the queries."""
    order = np.random.default_rng(seed).permutation(len(y))
    support = np.concatenate([order[y[order] == c][:shots] for c in range(y.max() + 1)])
    return support, np.setdiff1d(order, support)


def heads(z: Array, y: Array, shots: int, centre: Array) -> dict[str, list[float]]:
    """Head -> mean and half of its interval, over the draws. centre [M, 1, D]: features of one centre crop."""
    right: dict[str, list[float]] = {}
    shown = {"centre crop": centre, "1 view": z[:, :1], f"{z.shape[1]} views": z}
    for seed in range(DRAWS):
        support, query = draw(y, shots, seed)
        for views, x in shown.items():
            for kind in HEADS if x is not centre else ("cosine",):
                head, _ = fit(kind, x[support], y[support], int(y.max()) + 1)
                hits = head.scores(x[query]).argmax(-1) == y[query]
                right.setdefault(f"{kind}, {views}", []).append(100 * float(hits.mean()))
    return {name: interval(each) for name, each in right.items()}


def interval(each: Sequence[float]) -> list[float]:
    """Mean and half of its 95 % interval."""
    return [float(np.mean(each)), float(Z95 * np.std(each, ddof=1) / math.sqrt(len(each)))]


def head_row(head: str, right: dict[str, list[float]]) -> dict[str, str]:
    mean = sum(value for value, _ in right.values()) / len(right)
    cells = {column: f"{value:.1f} ± {half:.1f}" for column, (value, half) in right.items()}
    return {"head": head, **cells, "mean": f"{mean:.1f}"}


def honest(z: Array, y: Array) -> dict[str, Any]:
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
    difference = interval([estimate - truth for estimate, truth, *_ in rows])
    return {**dict(zip(names, np.mean(rows, 0).tolist(), strict=True)), "difference": difference}


def honest_row(name: str, found: dict[str, Any]) -> dict[str, str]:
    return {
        "5 pictures a class": name,
        "left out %": f"{found['estimate']:.1f}",
        "true %": f"{found['truth']:.1f}",
        "difference": "{:.1f} ± {:.1f}".format(*found["difference"]),
        "interval covers": f"{100 * found['covered']:.0f} %",
        "calibration error, scores as they are": f"{found['calibration_error_before']:.1f}",
        "by the temperature": f"{found['calibration_error']:.1f}",
        "AUROC": f"{found['auroc']:.1f}",
    }


def fine_tuned(name: str, folder: Path, *, draws: int) -> dict[str, list[float]]:
    """Percent right of both in each draw; each is printed, too."""
    z, y, *_ = features(folder)
    x, *_, tuning = features(folder, "adapt=all")
    ways, found = int(y.max()) + 1, dict[str, list[float]](head=[], all=[])
    for seed in range(draws):
        support, query = draw(y, 5, seed)
        head, _ = fit("ridge", z[support], y[support], ways)
        model = tuning.method.fitted(x[support], y[support], ways)
        with torch.no_grad():
            tuned = torch.cat([model(torch.from_numpy(x[i]).float() / 255) for i in query])
        for which, scores in (("head", head.scores(z[query])), ("all", tuned.numpy())):
            found[which].append(100 * float((scores.argmax(-1) == y[query]).mean()))
        print(f"{name}, draw {seed}: head {found['head'][-1]:.1f}, all {found['all'][-1]:.1f}", flush=True)
    return found


def tuned_row(name: str, found: dict[str, list[float]]) -> dict[str, str]:
    gains = [after - before for before, after in zip(found["head"], found["all"], strict=True)]
    columns = {"adapt=head": found["head"], "adapt=all": found["all"], "difference": gains}
    cells = {column: "{:.1f} ± {:.1f}".format(*interval(each)) for column, each in columns.items()}
    return {"5 pictures a class": name, "draws": str(len(gains)), **cells}


def calibration_error(p: Array, y: Array, bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3), percent."""
    top, right = p.max(-1), p.argmax(-1) == y
    place = np.minimum((top * bins).astype(int), bins - 1)
    return float(100 * sum(abs((right - top)[place == b].sum()) for b in range(bins)) / len(y))


def auroc(high: Array, low: Array) -> float:
    """How often one of `high` is above one of `low`, percent; ties count half."""
    difference = high[:, None] - low
    return float(100 * ((difference > 0) + (difference == 0) / 2).mean())


if __name__ == "__main__":
    main()
