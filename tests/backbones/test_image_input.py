"""What pre-trained networks see."""

import sys

import pytest
import torch

from fewshot.backbones.image_input import ImageInput, package
from fewshot.errors import InputError


def image_input(interpolation: str = "bicubic") -> ImageInput:
    return ImageInput(size=4, resize=5, interpolation=interpolation, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.4))


def test_mean_and_deviation_are_taken_off_each_channel() -> None:
    x = torch.rand(2, 3, 4, 4)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.1, 0.2, 0.4])
    torch.testing.assert_close(image_input()(x), ((x.movedim(1, -1) - mean) / std).movedim(-1, 1))
    assert not image_input().state_dict()


def test_grey_images_are_three_equal_channels_and_other_sizes_are_resized() -> None:
    ours = image_input()
    grey = torch.rand(2, 1, 9, 7)
    assert ours(grey).shape == (2, 3, 4, 4)
    torch.testing.assert_close(ours(grey), ours(grey.expand(-1, 3, -1, -1)))


def test_resizing_stays_in_the_range_of_images() -> None:
    edges = torch.zeros(1, 3, 2, 2)
    edges[..., 0] = 1
    seen = image_input()(edges) * image_input().std + image_input().mean
    assert seen.min() >= -1e-6
    assert seen.max() <= 1 + 1e-6


def test_a_missing_package_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"backbone=timm needs the package timm: pip install 'fewshot\[timm\]'"):
        package("timm", "timm", "timm")
