"""From the start of the process to its first training step, and the preparation of Omniglot.

    python scripts/bench/start.py [--quick] [--json docs/results/bench_start.json] [--device cuda]

Whole processes, `fewshot train` as a user starts it (console logger), with warm files and prepared data: the median
of three, from the start of the process until the first row of metrics, which is written once its first step is
done. The floor beside it is what importing torch alone takes, in a process of its own.

Omniglot is prepared from its two archives into an empty cache, then opened again.

Columns: s is what it took; import torch s is the same for a process that does nothing else.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from measuring import Row, alone, arguments, report

ONE_STEP = [
    "trainer.steps=1", "trainer.val_every=0", "trainer.log_every=1", "evaluation.episodes=2", "logger=console",
    "resume=false",
]  # fmt: skip
RUNS = {
    "train algorithm=maml": ["algorithm=maml"],
    "train algorithm=protonet": ["algorithm=protonet"],
    "train algorithm=maml dataset=omniglot": ["algorithm=maml", "dataset=omniglot"],
    "train algorithm=protonet dataset=omniglot": ["algorithm=protonet", "dataset=omniglot"],
}


def first_step(words: list[str]) -> float:
    """Seconds to the first row of metrics."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fewshot", "train", *words, *ONE_STEP, f"output_dir={folder}"]
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while not any(file.stat().st_size for file in Path(folder).glob("train/*/*/metrics.jsonl")):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode} before its first step")
            time.sleep(0.01)
        seconds = time.perf_counter() - begin
        process.kill()  # the rest of the run is of no interest
        process.wait()
    return seconds


def import_torch() -> float:
    """Seconds of a process that imports torch and ends."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - begin


def omniglot(rotations: str) -> tuple[float, float]:
    """Seconds to prepare Omniglot into an empty cache, and to open it again."""
    from ours import compose

    from fewshot.assemble import load_images

    with TemporaryDirectory() as cache:
        words = ["dataset=omniglot", f"dataset.rotations={rotations}", f"cache_dir={cache}"]
        config = compose("config", words).config
        times = []
        for _ in range(2):
            begin = time.perf_counter()
            load_images(config)
            times.append(time.perf_counter() - begin)
    return times[0], times[1]


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    repetitions = 1 if args.quick else 3
    tiny = ["backbone=mlp"] if args.quick else []
    floor = median(alone(args.quick, import_torch) for _ in range(repetitions))
    rows: list[Row] = []
    for name, words in RUNS.items():
        words = [*words, f"device={args.device}", *tiny]
        if not args.quick:
            first_step(words)  # files get warm, data prepared
        seconds = median(alone(args.quick, first_step, words) for _ in range(repetitions))
        rows.append({"what": f"first step of `fewshot {name}`", "s": seconds, "import torch s": floor})
        print(rows[-1], flush=True)
        if args.quick:
            break
    for rotations in () if args.quick else ("none", "classes"):
        prepare, again = alone(False, omniglot, rotations)
        rows.append({"what": f"Omniglot, rotations={rotations}: preparation", "s": prepare})
        rows.append({"what": f"Omniglot, rotations={rotations}: opened again", "s": again})
    report("start", args, rows)


if __name__ == "__main__":
    main()
