"""Sampling: images per second, their share of a training step, and whether the number of images matters.

    python scripts/bench/sampling.py [--quick] [--json docs/results/bench_sampling.json] [--device cuda]

Whole batches as a run draws them (indices by hash, one gather, one conversion to float), from Omniglot and then from
memory-mapped files of noise of growing size. The other side is easyfsl's way from PNG files to tensors (EasySet,
TaskSampler, DataLoader without workers), on the same batches of Omniglot.

Columns: easyfsl / ours is the ratio of times; images in the set; images per step; images per second; ms to draw the
batch of a step; MB that this process holds for it (without the mapped file's pages, which the kernel can take back at
any time); ms of the step that follows; data % is the time to draw over both.
"""

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import omniglot_files
import torch
from measuring import Row, alone, arguments, measure, missing, report, resident, timed
from plain import Shape

CASES = {
    "ProtoNet 60-way 1-shot": ("protonet", Shape("pool", tasks=1, ways=60, shots=1, queries=5)),
    "ProtoNet 60-way 5-shot": ("protonet", Shape("pool", tasks=1, ways=60, shots=5, queries=5)),
    "MAML 32 x 5-way 1-shot, 1 query": ("maml", Shape("stride", queries=1)),
    "MAML 32 x 5-way 1-shot, 15 queries": ("maml", Shape("stride", queries=15)),
}


def ours(algorithm: str, shape: Shape, images: int | None, quick: bool) -> Row:
    """images: of Omniglot (None), or of a memory-mapped file of as many."""
    from ours import built, image_set, noise_images, words

    from fewshot.assemble import load_images
    from fewshot.streams import stream

    ours = built(
        [f"algorithm={algorithm}", "dataset=omniglot", "dataset.rotations=none", *words(shape)], size=shape.size
    )
    with TemporaryDirectory() as folder:
        if images is not None:
            data = image_set(mapped(Path(folder) / "images.bin", images, shape.size), 20)
        else:
            data = noise_images(100, 20, shape.size) if quick else load_images(ours.config)
        batches = stream(ours.algorithm.stream, data.on(ours.machine.device), "train", seed=0, within_groups=False,
                         device=ours.machine.device)  # fmt: skip
        held = resident()
        batches.batch(0)
        number = 1 if quick else 128  # two blocks of drawn indices
        rounds = [
            timed(lambda: [batches.batch(k) for k in range(r * number, (r + 1) * number)], shape.device)  # noqa: B023
            for r in range(1 if quick else 5)
        ]
        draw, mb = median(rounds) / number, resident() - held
        batch = batches.batch(0)
        step = 0.0 if images else measure(lambda: ours.step(batch, step=0, rate=1.0), shape.device, quick=quick).ms
    each = shape.tasks * shape.ways * (shape.shots + shape.queries)
    row: Row = {"images": len(data.images), "per step": each, "images per s": round(each / draw), "draw ms": 1e3 * draw,
                "MB": mb}  # fmt: skip
    return row if images else row | {"step ms": step, "data %": 100 * draw / (draw + step / 1e3)}


def mapped(path: Path, images: int, size: int) -> torch.Tensor:
    """A memory-mapped file of noise."""
    with path.open("wb") as file:
        for first in range(0, images, 50_000):
            pixels = torch.randint(0, 256, (min(50_000, images - first), size * size), dtype=torch.uint8)
            file.write(pixels.numpy().data)
    flat = torch.from_file(str(path), shared=False, size=images * size * size, dtype=torch.uint8)
    return flat.view(images, 1, size, size)


def easyfsl(shape: Shape, characters: omniglot_files.Folders) -> float:
    """Seconds per batch; a meta-batch is as many of its tasks."""
    loader = iter(omniglot_files.easyfsl_loader(characters, shape, 4 * shape.tasks, workers=0))
    next(loader)
    begin = time.perf_counter()
    drawn = len(list(islice(loader, min(4 * shape.tasks - 1, 16))))
    return (time.perf_counter() - begin) / drawn * shape.tasks


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    tiny = {"tasks": 2, "ways": 5, "queries": 1, "shots": 1, "size": 16, "filters": 4}
    cases = {
        name: (algorithm, shape._replace(device=args.device, **(tiny if args.quick else {})))
        for name, (algorithm, shape) in list(CASES.items())[:: 3 if args.quick else 1]
    }
    peer = not missing("easyfsl")
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        characters: omniglot_files.Folders = []
        if peer:
            characters = omniglot_files.noise(Path(folder)) if args.quick else omniglot_files.extract(Path(folder))
        for name, (algorithm, shape) in cases.items():
            row = alone(args.quick, ours, algorithm, shape, None, args.quick)
            theirs = alone(args.quick, easyfsl, shape, characters) if peer else None
            rows.append({"easyfsl / ours": theirs and 1e3 * theirs / row["draw ms"], "batch": name, **row})
            print(rows[-1], flush=True)
    name, (algorithm, shape) = next(iter(cases.items()))
    for images in (200, 400) if args.quick else (1000, 10_000, 100_000, 1_000_000):
        images = max(images, shape.ways * 20)
        rows.append(
            {"easyfsl / ours": None, "batch": name, **alone(args.quick, ours, algorithm, shape, images, args.quick)}
        )
        print(rows[-1], flush=True)
    report("sampling", args, rows)


if __name__ == "__main__":
    main()
