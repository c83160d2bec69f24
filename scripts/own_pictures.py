"""Heads for own pictures, compared over random draws: python scripts/own_pictures.py NAME=DIR ...

Each DIR has a folder of pictures for each class. From each class 1, 2 and 5 pictures are drawn, 50 times; all others
are classified. The table says how many are right, with the 95 % interval of the mean over draws. Below it: the
estimate by leaving out beside the true accuracy, the calibration error, and how well strangers are told (one class
left out of the support: AUROC of the top probability). docs/results/own_pictures.json has the numbers.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from fewshot.algorithms.embedding_head import prototypes
from fewshot.algorithms.logistic_regression import fit_logistic, with_ones
from fewshot.algorithms.ridge import fit_ridge, unit_length
from fewshot.backbones.efficientnet_lite0 import EfficientNetLite0
from fewshot.cli.compose import compose
from fewshot.features import FeatureCache
from fewshot.folders import class_folder
from fewshot.metrics import mean_ci95
from fewshot.ops.similarities import cosines
from fewshot.prediction import accuracy, by_ridge, has_others, scale_of

DRAWS, SHOTS, SPLITS = 50, (1, 2, 5), 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--json", type=Path, default=Path("docs/results/own_pictures.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for word in args.folders:
        name, _, folder = word.partition("=")
        z, y = features(Path(folder))
        found[name] = {"heads": {shots: heads(z, y, shots) for shots in SHOTS}, "honest": honest(z, y)}
    args.json.write_text(json.dumps(found, indent=1) + "\n")
    print(tables(found))


def features(folder: Path) -> tuple[Tensor, Tensor]:
    """[M, 4, D] and classes [M]."""
    config = compose("config", ["backbone=efficientnet_lite0"]).config

    def make() -> EfficientNetLite0:
        return EfficientNetLite0(weights="default")

    cache = FeatureCache(Path(config["cache_dir"]), config["backbone"], make, torch.device("cpu"))
    files = class_folder(folder)
    names = sorted(set(files.labels))
    z = np.stack([known.features for known in cache.embed(files.paths)[0] if known is not None])
    return torch.from_numpy(z).double(), torch.tensor([names.index(label) for label in files.labels])


def draw(y: Tensor, shots: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of the support, class-major, and of the queries."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    support = torch.cat([order[y[order] == c][:shots] for c in range(int(y.max()) + 1)])
    query = torch.ones(len(y), dtype=torch.bool)
    query[support] = False
    return support, query.nonzero().flatten()


def heads(z: Tensor, y: Tensor, shots: int) -> dict[str, list[float]]:
    """Head -> mean and half of the interval, over the draws; all draws are one batch of tasks."""
    support, query = (torch.stack(rows) for rows in zip(*[draw(y, shots, s) for s in range(DRAWS)], strict=True))
    right = {}
    for name, views in (("", 1), (", 4 views", 4)):
        labels = one_hot(y[support].repeat_interleave(views, 1), int(y.max()) + 1).double()  # [T, S V, N]
        plain, root = (unit_length(z[:, :views], square_root=on) for on in (False, True))
        x, q = plain[support].flatten(1, 2), plain[query].mean(2)
        mean = x.mean(1, keepdim=True)
        centred = normalize(plain[query] - mean[:, None], dim=-1).mean(2)
        weight = fit_logistic(x, labels, 10.0)
        ridges = {
            n: (fit_ridge(v[support].flatten(1, 2), labels), v[query].mean(2))
            for n, v in (("", plain), (" of roots", root))
        }
        scores = {
            "nearest mean, cosine": cosines(q, prototypes(x, labels)),
            "nearest mean, CL2N": cosines(centred, prototypes(normalize(x - mean, dim=-1), labels)),
            "logistic regression, C=10": with_ones(q) @ weight,
        } | {f"ridge{n}": v @ fit.weight + fit.bias for n, (fit, v) in ridges.items()}
        for head, score in scores.items():
            right[head + name] = (score.argmax(-1) == y[query]).double().mean(-1) * 100
    return {head: list(mean_ci95(values)) for head, values in right.items()}


def honest(z: Tensor, y: Tensor) -> dict[str, float]:
    """Over 20 draws of 5 pictures a class: estimate beside truth, calibration, and strangers."""
    rows = []
    ways = int(y.max()) + 1
    for seed in range(SPLITS):
        support, query = draw(y, 5, 1000 + seed)
        judged = by_ridge(z[support], y[support], ways, z[query])
        told = has_others(y[support])
        estimate = accuracy(judged.left_out[told].argmax(-1) == y[support][told])
        truth = accuracy(judged.query.argmax(-1) == y[query])
        assert estimate is not None
        assert truth is not None
        scale = scale_of(judged.left_out, y[support])
        before, after = (calibration_error((s * judged.query).softmax(-1), y[query]) for s in (1.0, scale))
        stranger = seed % ways
        own = support[y[support] != stranger]
        label = y[own] - (y[own] > stranger).long()
        open_set = by_ridge(z[own], label, ways - 1, z[query])
        top = (scale_of(open_set.left_out, label) * open_set.query).softmax(-1).amax(-1)
        rows.append((estimate.value, truth.value, float(estimate.low <= truth.value <= estimate.high), before, after,
                     auroc(top[y[query] != stranger], top[y[query] == stranger])))  # fmt: skip
    names = ("estimate", "truth", "covered", "calibration_error_before", "calibration_error", "auroc")
    return dict(zip(names, torch.tensor(rows, dtype=torch.float64).mean(0).tolist(), strict=True))


def calibration_error(p: Tensor, y: Tensor, bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3), percent."""
    top, taken = p.max(-1)
    place = (top * bins).long().clamp(max=bins - 1)
    right = (taken == y).double()
    gaps = [(right[place == b].sum() - top[place == b].sum()).abs() for b in range(bins)]
    return float(100 * torch.stack(gaps).sum() / len(y))


def auroc(high: Tensor, low: Tensor) -> float:
    """How often one of `high` is above one of `low`, percent; ties count half."""
    difference = high[:, None] - low
    return float(100 * ((difference > 0).double() + (difference == 0).double() / 2).mean())


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
