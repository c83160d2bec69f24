"""Data that a test can learn from, made in no time."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fewshot.datasets.base import ImageSet

COLOURS = {"animals/cat": (200, 40, 40), "dog": (40, 200, 40), "fish": (40, 40, 200)}
TINY_NETWORK = (
    "backbone=timm",
    "backbone.model=test_convnext",
    "backbone.weights=none",
    "backbone.size=32",
    "threads=1",
)

# The least that result.json holds.
RESULT: dict[str, Any] = {
    "schema": 1, "name": "toys", "algorithm": "maml", "dataset": "blobs", "split": "test", "ways": 5, "shots": 1,
    "queries": 5, "seed": 0, "steps": 4, "protocol": {"checkpoint_rule": "best"},
    "test": {"accuracy": 98.61, "accuracy_ci95": 0.2, "episodes": 600},
}  # fmt: skip


def blobs(classes: int = 12, per_class: int = 12, noise: float = 20.0) -> ImageSet:
    """A data set that can be learned: each class is a pattern of its own with noise on top, [1, 4, 4] images."""
    draw = torch.Generator().manual_seed(1)
    patterns = torch.rand(classes, 1, 1, 4, 4, generator=draw) * 255
    images = patterns + noise * torch.randn(classes, per_class, 1, 4, 4, generator=draw)
    third = classes // 3
    return ImageSet(
        name="blobs",
        images=images.flatten(0, 1).clamp(0, 255).to(torch.uint8),
        offsets=torch.arange(classes + 1) * per_class,
        class_names=[f"blob{c}" for c in range(classes)],
        groups=["blobs"] * classes,
        splits={"train": range(third), "val": range(third, 2 * third), "test": range(2 * third, classes)},
    )


class Identity(torch.nn.Identity):
    """In the place of a backbone: an image is its own embedding."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features


def clusters(
    tasks: int = 3, ways: int = 4, shots: int = 2, queries: int = 5, features: int = 6, noise: float = 0.5
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tasks in an embedding of non-negative numbers, classes around points of their own, in float64.

    support [T, N*K, D], support_y [T, N*K], query [T, N*Q, D], query_y [T, N*Q].
    """
    centres = torch.rand(tasks, ways, 1, features, dtype=torch.float64)
    both = (centres + noise * torch.randn(tasks, ways, shots + queries, features, dtype=torch.float64)).abs()
    labels = torch.arange(ways)
    y = [labels.repeat_interleave(k).repeat(tasks, 1) for k in (shots, queries)]
    return both[:, :, :shots].flatten(1, 2), y[0], both[:, :, shots:].flatten(1, 2), y[1]


def plain_result(**more: Any) -> dict[str, Any]:
    """What result.json has at least."""
    mean = {"accuracy": 98.614, "accuracy_ci95": 0.21}
    names = dict.fromkeys(("name", "algorithm", "dataset", "split"), "x")
    sizes = dict.fromkeys(("ways", "shots", "queries", "seed", "steps"), 1)
    return {**names, **sizes, "test": {**mean, "episodes": 2}, "val": mean, "protocol": {}, **more}


def picture(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """A colour with noise on it."""
    noise = np.random.default_rng(seed).integers(-30, 30, (40, 50, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)
