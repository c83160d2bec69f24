"""Own pictures in large numbers, time and memory: python scripts/many_pictures.py FOLDER

Draws 200 classes of 500 (--each) pictures of 32x32 pixels into FOLDER, and a query of each, and gives `fewshot predict`
with a short ProtoNet run; then two classes, of 500 pictures and of one, with a tiny network in ten views and the
default head.
What EfficientNet-Lite0 makes of as many pictures, 5 GB of 100 000, is drawn instead, for the default head alone.

Seconds are the processor's, of all threads; GB is the most memory that a process held of its own (RssAnon, without
what it reads from files: the system takes that back where memory is short).

docs/results/own_pictures_many.json has the numbers, and the rows of the table that `make results` writes.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fewshot.own_pictures.heads import fit
from fewshot.own_pictures.scores import scale_of

RESULT = Path(__file__).parents[1] / "docs" / "results" / "own_pictures_many.json"
CLASSES = 200
VIEWS, WIDTH = 10, 1280  # of EfficientNet-Lite0
TRAIN = ["algorithm=protonet", "trainer.steps=30", "trainer.val_every=0", "evaluation.episodes=10", "logger=console"]
FEWSHOT = [sys.executable, "-m", "fewshot"]
TINY = ["backbone=timm", "backbone.model=test_convnext", "backbone.weights=none", "backbone.size=32"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--each", type=int, default=500, metavar="N", help="pictures of each class")
    parser.add_argument("--head", action="store_true", help="only fit the default head to FOLDER/features")
    args = parser.parse_args()
    if args.head:
        head_alone(args.folder, args.each)
        return
    os.environ["FEWSHOT_CACHE"] = str(args.folder / "cache")
    for c in range(CLASSES):
        draw(args.folder / "many" / f"{c:03}", c, args.each)
        draw(args.folder / "query" / f"{c:03}", c, 1, seed=1)
    draw(args.folder / "two" / "000", 0, 500)
    draw(args.folder / "two" / "001", 1, 1)
    said = subprocess.run([*FEWSHOT, "train", *TRAIN, f"output_dir={args.folder}"], check=True, stdout=subprocess.PIPE)
    (run,) = re.findall(r"^folder +(\S+)", said.stdout.decode(), re.MULTILINE)
    rows, many = [], f"{CLASSES} x {args.each}"
    for name, support, query, method, words in (
        (many, "many", "query", "ProtoNet run", [f"run={run}"]),
        ("500 and 1", "two", "query/001", "tiny network, ridge", TINY),
    ):
        for which in ("the first time", "again"):
            asked = ["predict", f"support={args.folder / support}", f"query={args.folder / query}", *words]
            rows.append({"pictures": name, "what": f"predict, {method}, {which}", **measured([*FEWSHOT, *asked])})
    draw_features(args.folder / "features", args.each)
    alone = measured([sys.executable, __file__, "--head", f"--each={args.each}", str(args.folder)])
    rows.append({"pictures": many, "what": "ridge and its temperature on 10 views of 1280 features", **alone})
    command = f"python scripts/many_pictures.py FOLDER --each {args.each}"
    RESULT.write_text(json.dumps({"command": command, "rows": rows}, indent=1) + "\n")


def draw(folder: Path, c: int, count: int, seed: int = 0) -> None:
    """Pictures of class c: its 4x4 colours, with noise."""
    folder.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(c).integers(0, 256, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
    noise = np.random.default_rng([c, seed]).normal(0, 60, (count, 32, 32, 3))
    for i, pixels in enumerate((colours + noise).clip(0, 255).astype(np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i}.bmp")


def draw_features(file: Path, each: int) -> None:
    centres = np.random.default_rng(0).random((CLASSES, 1, 1, WIDTH), dtype=np.float32)
    with file.open("wb") as out:
        for c in range(CLASSES):
            noise = np.random.default_rng([c, 1]).random((each, VIEWS, WIDTH), dtype=np.float32)
            out.write((centres[c] + 4 * noise).tobytes())


def head_alone(folder: Path, each: int) -> None:
    shape = (CLASSES * each, VIEWS, WIDTH)
    features = np.memmap(folder / "features", np.float32, "c", shape=shape)
    y = np.repeat(np.arange(CLASSES), each)
    _, left_out = fit("ridge", features, y, CLASSES)
    print(f"left out: {100 * (left_out.argmax(1) == y).mean():.1f} % right, scale {scale_of(left_out, y):.1f}")


def measured(command: Sequence[str]) -> dict[str, str]:
    """Processor seconds and the most RssAnon of a process."""
    print(*command, flush=True)
    process, most = subprocess.Popen(command), 0
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        held = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        most = max(most, int(held[1]) if held else 0)
        time.sleep(0.05)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return {"s": f"{usage.ru_utime + usage.ru_stime:.0f}", "GB": f"{most / 1e6:.2f}"}


if __name__ == "__main__":
    main()
