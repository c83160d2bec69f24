"""Data that a test can learn from, made in no time."""

import torch

from fewshot.datasets.base import ImageSet


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
