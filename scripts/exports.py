"""Exported classifiers beside fewshot's own: python scripts/exports.py DIR FILES, then again with --times.

DIR has a folder of pictures for each of 10 classes. The first call trains two short runs, writes each classifier by
`fewshot export` into the folder FILES, as ONNX and by torch.export, and notes the largest difference to fewshot's
probabilities on all pictures of DIR, which that command prints. With --times, on an otherwise idle machine: how long a
picture takes in batches of 1 and of 32, on one thread (median), by onnxruntime, by the loaded .pt2, and by fewshot.

docs/results/own_pictures_exports.json has the numbers, and the rows of the table that `make results` writes.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from fewshot.cli.own_pictures import Words, feature_cache
from fewshot.own_pictures.prediction import learn

RESULT = Path(__file__).parents[1] / "docs" / "results" / "own_pictures_exports.json"
TRAIN = ["ways=10", "trainer.steps=30", "trainer.val_every=0", "evaluation.episodes=10", "logger=console"]
ROWS = {  # classifier -> words of `fewshot train`, words of `fewshot export`
    "efficientnet_lite0, ridge (default)": ([], []),
    "efficientnet_lite0, logistic": ([], ["head=logistic"]),
    "ProtoNet run": (["algorithm=protonet"], []),
    "ridge run": (["algorithm=ridge"], []),
    "MAML run, its adapted copy": (["algorithm=maml"], ["algorithm.norm_statistics=support"]),
}
KINDS = ("onnx", "pt2")
REPEATED = {1: 10, 32: 3}  # batch -> calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("support", type=Path, metavar="DIR")
    parser.add_argument("files", type=Path, metavar="FILES")
    parser.add_argument("--times", action="store_true")
    args = parser.parse_args()
    noted, command = args.files / "noted.json", "python scripts/exports.py DIR FILES"
    if args.times:
        torch.set_num_threads(1)
        numbers = [one | {"ms": times(one, args.support)} for one in json.loads(noted.read_text())]
        command += ", then with --times"
    else:
        args.files.mkdir(parents=True, exist_ok=True)
        numbers = [written(n, args.support, args.files) for n in range(len(ROWS))]
        noted.write_text(json.dumps(numbers, indent=1))
    rows = [cells(*one) for one in zip(ROWS, numbers, strict=True)]
    shown = [{key: value for key, value in one.items() if key not in ("words", "files")} for one in numbers]
    RESULT.write_text(json.dumps({"command": command, "rows": rows, "numbers": shown}, indent=1) + "\n")


def written(n: int, support: Path, folder: Path) -> dict[str, Any]:
    """Row n as both files: words of its command, differences, megabytes."""
    train, words = list(ROWS.values())[n]
    if train:
        run = fewshot("train", *train, *TRAIN, f"output_dir={folder}")
        (found,) = re.findall(r"^folder +(\S+)", run, re.MULTILINE)
        words = [f"run={found}", *words]
    one: dict[str, Any] = {"words": words, "files": {}, "difference": {}, "MB": {}}
    for kind in KINDS:
        file = folder / f"{n}.{kind}"
        said = fewshot("export", f"support={support}", f"out={file}", *words)
        (difference,) = re.findall(r"largest difference .*: (\S+)", said)
        one["files"][kind], one["difference"][kind] = str(file), float(difference)
        one["MB"][kind] = file.stat().st_size / 1e6
    return one


def fewshot(*words: str) -> str:
    """What the command prints."""
    print("fewshot", *words, flush=True)
    done = subprocess.run([sys.executable, "-m", "fewshot", *words], check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    return done.stdout


def times(one: dict[str, Any], support: Path) -> dict[str, list[float]]:
    """Milliseconds a picture of each side, for each batch of REPEATED."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(one["files"]["onnx"], options)
    program = torch.export.load(one["files"]["pt2"]).module()
    cache = feature_cache(Words("export", [f"support={support}", "device=cpu", "threads=1", *one["words"]], {}, {}))
    learned, features = learn(support, cache)
    own = cache.method.fitted(features, learned.y, len(learned.names))
    _, *shape = (size if isinstance(size, int) else 1 for size in session.get_inputs()[0].shape)
    sides: dict[str, Callable[[np.ndarray], Any]] = {
        "onnxruntime": lambda x: session.run(None, {"pictures": x}),
        "torch.export": lambda x: program(torch.from_numpy(x)),
        "fewshot": lambda x: own(torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255),
    }
    with torch.no_grad():
        return {name: [timed(run, batch, shape) for batch in REPEATED] for name, run in sides.items()}


def timed(run: Callable[[np.ndarray], Any], batch: int, shape: list[int]) -> float:
    """Milliseconds a picture; the first call does not count."""
    x = np.random.default_rng(0).integers(0, 256, (batch, *shape), dtype=np.uint8)
    spent = []
    for _ in range(REPEATED[batch] + 1):
        begin = time.perf_counter()
        run(x)
        spent.append(1000 * (time.perf_counter() - begin) / batch)
    return median(spent[1:])


def cells(name: str, one: dict[str, Any]) -> dict[str, str]:
    row = {"classifier": name}
    row |= {f"difference, {kind}": f"{one['difference'][kind]:.0e}" for kind in KINDS}
    row |= {f"MB, {kind}": f"{one['MB'][kind]:.1f}" for kind in KINDS}
    return row | {f"ms, {side}": " / ".join(f"{ms:.3g}" for ms in each) for side, each in one.get("ms", {}).items()}


if __name__ == "__main__":
    main()
