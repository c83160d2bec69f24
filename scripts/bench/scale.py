"""What a step sends when a run is shared among GPUs, and what that leaves of eight of them: on paper.

    python scripts/bench/scale.py [--quick] [--json docs/results/bench_scale.json]

Nothing is timed here. Weights and messages are those of the model that `fewshot train` builds; the ms of a step on one
device were measured on an H200 (docs/scale.md says where); an exchange is a ring all-reduce, `messages` of them:

    messages * latency + 2 (N - 1) / N * bytes / bandwidth

with the latency and bandwidth of LINKS, which are round figures of what such links give, not measurements.

Columns: MB sent by each process per step; `more tasks %`: of 8 times the tasks a second when each of 8 GPUs has as much
to do as one had; `same batch`: times faster when 8 share one batch, where its fixed part is known (`fixed ms`, what a
step takes however small its batch).
"""

from collections.abc import Sequence
from typing import NamedTuple

from measuring import Row, arguments, report

GPUS = 8
LINKS = {  # seconds of the shortest exchange, bytes a second
    "NVLink": (25e-6, 350e9),
    "PCIe": (50e-6, 20e9),
    "100 Gb/s Ethernet": (150e-6, 10e9),
}
MESSAGES = 2  # float32: gradients and running statistics; float64: loss and accuracy


class Measured(NamedTuple):
    """A step on one H200."""

    ms: float
    channels: int
    side: int
    words: tuple[str, ...]
    fixed: float | None = None  # ms


CONV4 = ("backbone=conv4", "backbone.filters=64")
STRIDE = ("backbone=conv4_stride", "backbone.filters=64")
RESNET = ("algorithm=logistic_regression", "backbone=resnet12")
STEPS = {
    "ProtoNet, Conv4-64, 5-way 1-shot, 15 queries": Measured(0.2, 1, 28, ("algorithm=protonet", *CONV4)),
    "ProtoNet, Conv4-64, 60-way 1-shot": Measured(1.44, 1, 28, ("algorithm=protonet", *CONV4)),
    # 665 kernels, none of which is shorter than 2 us
    "MAML, Conv4-64 strided, 32 tasks": Measured(2.63, 1, 28, ("algorithm=maml", *STRIDE), 1.3),
    "MAML, Conv4-64 pooled, 32 tasks": Measured(4.05, 1, 28, ("algorithm=maml", *CONV4), 1.3),
    # 64 images 2.2 ms, 440 images 7.6 ms: 1.3 ms, and 0.0144 for each image
    "ResNet-12, 64 images of 32x32": Measured(2.2, 3, 32, RESNET, 1.3),
    "ResNet-12, 440 images of 32x32": Measured(7.6, 3, 32, RESNET, 1.3),
    "ResNet-12, 128 images of 84x84": Measured(13.7, 3, 84, RESNET, 1.3),
}  # fmt: skip


def exchange(megabytes: float, gpus: int, latency: float, bandwidth: float) -> float:
    """Milliseconds."""
    return 1e3 * (MESSAGES * latency + 2 * (gpus - 1) / gpus * megabytes * 1e6 / bandwidth)


def row(name: str, step: Measured) -> Row:
    from ours import built

    outer = built(step.words, size=step.side, channels=step.channels, classes=64).step
    weights = sum(p.numel() for p in outer.parameters)
    sent = (4 * (weights + sum(b.numel() for b in outer.running_statistics)) + 16) / 1e6
    extra = {link: exchange(sent, GPUS, *link_speed) for link, link_speed in LINKS.items()}
    shared = None if step.fixed is None else step.fixed + (step.ms - step.fixed) / GPUS
    return {
        "step": name, "weights": weights, "MB sent": sent, "ms": step.ms, "fixed ms": step.fixed,
        **{f"more tasks %, {link}": 100 * step.ms / (step.ms + ms) for link, ms in extra.items()},
        **{f"same batch, {link}": shared and step.ms / (shared + ms) for link, ms in extra.items()},
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    report("scale", args, [row(*case) for case in list(STEPS.items())[: 1 if args.quick else None]])


if __name__ == "__main__":
    main()
