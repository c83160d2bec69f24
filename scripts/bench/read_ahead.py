"""More images than memory: what a training step waits for its images, with and without reading ahead.

    python scripts/bench/read_ahead.py [--quick] [--json docs/results/bench_read_ahead.json]

ProtoNet, 5-way 1-shot, 15 queries, Conv4-64 on 3x84x84 images: 80 images a step, anywhere in a memory-mapped file.

    1 GB      noise on disk that the kernel was told to forget: nearly every image has to be read
    20 GB     a sparse file, which has no blocks on disk: what the map itself costs

Columns: without / with is the ratio of times of a step with its data; data ms is what it waits for its batch; MB is
peak memory above idle, the pages of the file that were touched among it.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from measuring import Load, PeakMemory, Row, alone, arguments, report
from ours import built, image_set

from fewshot.streams import EpisodeStream, stream

SIDE, PER_CLASS, STEPS, WARM = 84, 600, 20, 3
IMAGE = 3 * SIDE * SIDE  # bytes
GB = 10**9


def write_noise(path: Path, images: int) -> None:
    """On disk, and nowhere in memory."""
    noise = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(0, images, PER_CLASS):
            file.write(noise.bytes(PER_CLASS * IMAGE))
        file.flush()
        os.fsync(file.fileno())


def forget(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def side(path: Path, reads_ahead: bool, quick: bool) -> Row:
    """Means over steps."""
    forget(path)
    words = ["algorithm=protonet", "backbone=conv4", "algorithm.stream.tasks=1", "train_ways=5", "train_shots=1",
             "train_queries=15", *(["backbone.filters=4"] if quick else [])]  # fmt: skip
    made = built(words, size=SIDE, channels=3)
    memory = PeakMemory("cpu")
    pixels = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    images = image_set(pixels.view(-1, 3, SIDE, SIDE), PER_CLASS)
    batches = stream(made.algorithm.stream, images, "train", seed=0, within_groups=False, device=made.machine.device)
    assert isinstance(batches, EpisodeStream)
    batches.sampler.source.reads_ahead = reads_ahead
    data = total = 0.0
    load = Load()
    for k in range(WARM + (2 if quick else STEPS)):
        if k == WARM:
            data = total = 0.0
        begin = time.perf_counter()
        batch = batches.batch(k)
        data += time.perf_counter() - begin
        made.step(batch, step=k, rate=1.0)
        total += time.perf_counter() - begin
    steps = k + 1 - WARM
    return {"data": 1e3 * data / steps, "step": 1e3 * total / steps, "MB": memory.peak_mb(), "others": load.others()}


def compared(what: str, path: Path, quick: bool) -> Row:
    without, with_ = (alone(quick, side, path, ahead, quick) for ahead in (False, True))
    return {
        "without / with": without["step"] / with_["step"], "file": what, "step ms": with_["step"],
        "data ms": with_["data"], "step ms without": without["step"], "data ms without": without["data"],
        "MB": with_["MB"], "others %": max(without["others"], with_["others"]),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for gigabytes in (1, 20):
            path, classes = Path(folder) / f"{gigabytes}", 6 if args.quick else gigabytes * GB // (PER_CLASS * IMAGE)
            if gigabytes == 1:
                write_noise(path, classes * PER_CLASS)
            else:
                path.touch()
                os.truncate(path, classes * PER_CLASS * IMAGE)
            rows.append(compared(f"{gigabytes} GB" + (", sparse" if gigabytes == 20 else ""), path, args.quick))
            print(rows[-1], flush=True)
            path.unlink()
    report("read_ahead", args, rows)


if __name__ == "__main__":
    main()
