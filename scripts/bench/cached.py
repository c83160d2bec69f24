"""10 000 test episodes from embeddings that were computed once, against embedding every episode's images.

    python scripts/bench/cached.py [--quick] [--json docs/results/bench_cached.json] [--device cuda]

CIFAR-FS (in $FEWSHOT_DATA), 5-way 1-shot, 15 queries, ProtoNet on Conv4-64 of random weights, which take the time of
trained ones. Both sides are `fewshot.evaluation.evaluate`; the slow way runs over the first 1000 of the episodes.

Columns: slow / cached is the ratio of times per episode; s is what 10 000 episodes take, the slow way's from 1000; how
many of the 1000 episodes have another accuracy, and by how many points at most.
"""

from collections.abc import Sequence
from typing import Any

import torch
from measuring import Load, Row, alone, arguments, report
from ours import built, noise_images

from fewshot.assemble import load_images
from fewshot.evaluation import evaluate
from fewshot.sampler import EpisodeSampler


def both(device: str, quick: bool) -> Row:
    """The row."""
    words = ["algorithm=protonet", "backbone=conv4", "dataset=cifar_fs", "normalize=none", f"device={device}"]
    made = built([*words, *(["backbone.filters=4"] if quick else [])], size=32, channels=3)
    images = noise_images(8, 40, 32, channels=3) if quick else load_images(made.config)
    sampler = EpisodeSampler(
        images.on(made.machine.device), "train" if quick else "test", ways=5, shots=1, queries=15, seed=0,
        device=made.machine.device,
    )  # fmt: skip
    episodes, few = (40, 10) if quick else (10_000, 1000)
    options: Any = {"tasks": made.config["evaluation"]["tasks"], "dtype": made.machine.dtype}
    load = Load()
    cached = evaluate(made.algorithm, sampler, episodes=episodes, **options)
    made.algorithm.fixed_features = False  # every episode's images go through the network
    slow = evaluate(made.algorithm, sampler, episodes=few, **options)
    assert cached.embedded_once and not slow.embedded_once
    difference = (cached.accuracy[:few] - slow.accuracy).abs()
    return {
        "slow / cached": slow.seconds / few / (cached.seconds / episodes), "episodes": episodes,
        "cached s": cached.seconds, "slow s": slow.seconds / few * episodes, "compared": few,
        "episodes that differ": int((difference > 0).sum()), "at most points": difference.max().item(),
        "others %": load.others(),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    torch.manual_seed(0)
    report("cached", args, [alone(args.quick, both, args.device, args.quick)])


if __name__ == "__main__":
    main()
