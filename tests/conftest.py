"""What several test files share: a fixed seed, and small data sets in memory."""

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch

from fewshot.datasets.base import ImageSet


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Each test draws the same numbers whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def make_images() -> Callable[..., ImageSet]:
    """A data set whose images tell their row: pixels (row % 256, row // 256, 0, 0) of a 2x2 image."""

    def make(
        sizes: Sequence[int],
        *,
        splits: Mapping[str, Sequence[int]] | None = None,
        groups: Sequence[str] | None = None,
        turns: int = 1,
    ) -> ImageSet:
        rows = torch.arange(turns * sum(sizes))
        pixels = torch.stack([rows % 256, rows // 256, 0 * rows, 0 * rows], 1)
        return ImageSet(
            name="tiny",
            images=pixels.to(torch.uint8).view(-1, 1, 2, 2),
            offsets=torch.tensor([0, *sizes]).cumsum(0),
            class_names=[f"class{c}" for c in range(len(sizes))],
            groups=list(groups or ["all"] * len(sizes)),
            splits=splits or {"train": range(len(sizes))},
            turns=turns,
        )

    return make


@pytest.fixture
def make_blobs() -> Callable[..., ImageSet]:
    """A data set that can be learned: each class is a pattern of its own with noise on top, [1, 4, 4] images."""

    def make(classes: int = 12, per_class: int = 12, noise: float = 20.0) -> ImageSet:
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

    return make
