"""ResNet-12: the papers' sizes, the forward of a network written independently in torch.nn, dropping, meta-gradient."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot import gradcheck
from fewshot.backbones.resnet12 import ResNet12
from fewshot.errors import InputError
from fewshot.ops.dropblock import DropBlock, step_counters

SMALL = (4, 5, 6, 7)
NOTHING_DROPPED = {"dropout": 0.0, "dropblock": 0.0}


def resnet12(image_shape: tuple[int, ...] = (3, 32, 32), **options: Any) -> ResNet12:
    defaults = {
        "widths": (64, 160, 320, 640), "slope": 0.1, "readout": "mean", "dropout": 0.1, "dropblock": 0.1,
        "dropblock_size": None, "dropblock_steps": 40_000,
    }  # fmt: skip
    return ResNet12(image_shape, **(defaults | options))


class Reference(nn.Module):
    """The same network with torch.nn's layers in the papers' order: add, activation, pooling."""

    def __init__(self, widths: Sequence[int], readout: str, slope: float) -> None:
        super().__init__()
        self.layers, self.readout, self.slope = nn.ModuleList(), readout, slope
        for before, after in zip((3, *widths), widths, strict=False):
            path = [(before, after, 3), (after, after, 3), (after, after, 3), (before, after, 1)]
            self.layers.append(
                nn.ModuleList(
                    nn.Sequential(nn.Conv2d(i, o, k, padding=k // 2, bias=False), nn.BatchNorm2d(o)) for i, o, k in path
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        for first, second, third, shortcut in self.layers:
            y = F.leaky_relu(first(x), self.slope)
            y = F.leaky_relu(second(y), self.slope)
            x = F.max_pool2d(F.leaky_relu(third(y) + shortcut(x), self.slope), 2)
        if self.readout == "mean":
            x = F.adaptive_avg_pool2d(x, 1)
        return x.reshape(len(x), -1)


def copy_by_order(ours: nn.Module, theirs: nn.Module) -> None:
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            b.copy_(a.normal_(std=a[0].numel() ** -0.5))


@pytest.mark.parametrize(
    ("widths", "readout", "size"),
    [
        ((64, 160, 320, 640), "mean", 32),  # RFS, FEAT, EASY
        ((64, 128, 256, 512), "mean", 32),  # Meta-Baseline
        (SMALL, "flatten", 84),
        (SMALL, "flatten", 37),
    ],
)
def test_forward_of_an_independent_network(widths: Sequence[int], readout: str, size: int) -> None:
    """In training and, with the statistics of that, in evaluation; float64."""
    ours = resnet12((3, size, size), widths=widths, readout=readout, **NOTHING_DROPPED).double()
    theirs = Reference(widths, readout, 0.1).double()
    copy_by_order(ours, theirs)
    x = torch.randn(3, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("widths", "readout", "size", "parameters", "features"),
    [
        ((64, 160, 320, 640), "flatten", 84, 12_424_320, 16_000),  # MetaOptNet
        ((64, 160, 320, 640), "flatten", 32, 12_424_320, 2_560),
        ((64, 160, 320, 640), "mean", 84, 12_424_320, 640),
        ((64, 128, 256, 512), "mean", 80, 7_996_800, 512),  # Meta-Baseline
    ],
)
def test_the_papers_sizes(widths: Sequence[int], readout: str, size: int, parameters: int, features: int) -> None:
    net = resnet12((3, size, size), widths=widths, readout=readout)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net.out_features == features
    assert net.map_shape == (widths[3], size // 16, size // 16)


@pytest.mark.parametrize(("size", "block"), [(84, 5), (80, 5), (64, 5), (32, 2), (28, 2)])
def test_what_is_dropped_where(size: int, block: int) -> None:
    net = resnet12((3, size, size), widths=SMALL)
    kinds = [net.blocks[i].drop for i in range(4)]
    assert [type(k) for k in kinds] == [nn.Dropout, nn.Dropout, DropBlock, DropBlock]
    assert [k.p for k in kinds[:2]] == [0.1, 0.1]
    assert [(k.rate, k.size, k.ramp) for k in kinds[2:]] == [(0.1, block, 40_000)] * 2
    assert resnet12(dropblock_size=3, widths=SMALL).blocks[2].drop.size == 3


def test_weights_are_drawn_by_fan_out() -> None:
    for name, p in resnet12().named_parameters():
        if p.ndim > 1:
            fan_out = p.shape[0] * p.shape[2] * p.shape[3]
            assert p.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name


def test_forwards_in_training_differ_and_count_nothing() -> None:
    net, x = resnet12(widths=SMALL), torch.rand(4, 3, 32, 32)
    assert not torch.equal(net(x), net(x))
    assert torch.equal(net.eval()(x), net(x))
    assert [int(c) for c in step_counters(net)] == [0, 0]


@pytest.mark.parametrize("readout", ["mean", "flatten"])
def test_meta_gradient(readout: str) -> None:
    maml = gradcheck.as_maml(resnet12((2, 32, 32), widths=SMALL, readout=readout))
    batch = gradcheck.random_episode(maml, (2, 32, 32), tasks=2)
    assert max(gradcheck.meta_gradient_differences(maml, batch).values()) < gradcheck.TOLERANCE


def test_channels_last_in_bf16_is_near_float32() -> None:
    net = resnet12(widths=(8, 8, 8, 8)).eval().to(memory_format=torch.channels_last)
    x = torch.rand(4, 3, 32, 32).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(x)
    assert net.blocks(x).is_contiguous(memory_format=torch.channels_last)
    assert (rough.float() - net(x)).norm() < 0.03 * net(x).norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"readout": "max"}, "backbone.readout=max is unknown; choose mean or flatten"),
        ({"widths": (64, 64)}, r"backbone.widths=\[64, 64\]; ResNet-12 has four blocks"),
        ({"widths": (64, 64, 0, 64)}, "four blocks of at least one channel"),
        ({"dropout": 1.0}, r"backbone.dropout=1.0 is not in \[0, 1\)"),
        ({"dropblock": -0.1}, r"backbone.dropblock=-0.1 is not in \[0, 1\)"),
        ({"slope": -1.0}, r"backbone.slope=-1.0 is not in \[0, 1\)"),
        ({"dropblock_size": 0}, "backbone.dropblock_size=0 is below 1"),
        ({"image_shape": (3, 8, 32)}, "halves an image four times, these are 8x32; use 16 pixels or more"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resnet12(**({"widths": SMALL} | options))
