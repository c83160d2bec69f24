"""What augmentation costs in a training step: Conv4 with 64 filters on 3x84x84 images.

    python scripts/bench/augmentation.py [--quick] [--json FILE] [--device cuda]

baseline: 128 images a step (a classifier of 64 classes). protonet: one 5-way 5-shot task with 15 queries, 100 images.
Batches are drawn from an array of noise in memory, with and without the transforms of conf/augment.

Columns: share % is the time that the transforms add to a batch, over the time of the whole step (batch, forward,
backward and update) with them; ms of each part beside it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from measuring import Row, alone, arguments, measure, report
from ours import built, noise_images

from fewshot.construct import construct
from fewshot.streams import stream
from fewshot.transforms import Augment

SIDE = 84
CASES = {
    "baseline": ["algorithm=baseline", "algorithm.stream.batch_size=128"],
    "protonet": ["algorithm=protonet", "algorithm.stream.tasks=1", "train_ways=5", "train_shots=5", "train_queries=15"],
}
GROUPS = ("mini", "resized_crop", "resized_crop_jitter")


def share(case: str, group: str, device: str, quick: bool) -> Row:
    """One row; batch and step are timed in turns within one process."""
    size, net = (16, ["backbone.filters=4"]) if quick else (SIDE, ["backbone.filters=64"])
    words = ["backbone=conv4", *net, f"augment={group}", f"device={device}", *CASES[case]]
    ours = built(words, size=size, channels=3, classes=64)
    augment: Augment = construct(ours.config["augment"], "augment")
    images = noise_images(64, 20 if quick else 100, size, channels=3)
    options: dict[str, Any] = {"seed": 0, "within_groups": False, "device": torch.device(device)}
    plain = stream(ours.algorithm.stream, images, "train", **options)
    changed = stream(ours.algorithm.stream, images, "train", transforms=augment.train.values(), **options)
    batch, counter = changed.batch(0), iter(range(1, 10**9))
    step = measure(lambda: ours.step(batch, step=next(counter), rate=1.0), device, quick=quick)
    with_, without = (measure(lambda: s.batch(next(counter)), device, quick=quick) for s in (changed, plain))  # noqa: B023
    added = with_.ms - without.ms
    return {
        "share %": 100 * added / (step.ms + with_.ms), "algorithm": case, "augment": group, "transforms ms": added,
        "batch ms": without.ms, "step ms": step.ms, "others %": max(m.others for m in (step, with_, without)),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    rows = [alone(args.quick, share, case, group, args.device, args.quick) for case in CASES for group in GROUPS]
    report("augmentation", args, rows)


if __name__ == "__main__":
    main()
