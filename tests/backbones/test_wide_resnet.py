"""WRN-28-10: the published size, the forward of a network written independently in torch.nn, meta-gradient."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot import gradcheck
from fewshot.backbones.wide_resnet import WideResNet
from fewshot.errors import InputError


def wide_resnet(image_shape: tuple[int, ...] = (3, 16, 16), **options: Any) -> WideResNet:
    return WideResNet(image_shape, **({"depth": 16, "widen": 2, "dropout": 0.0, "bias": True} | options))


class Reference(nn.Module):
    """The same network with torch.nn's layers, in the order of FEAT's code."""

    def __init__(self, depth: int, widen: int, bias: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, 1, 1, bias=bias)
        self.rest = nn.ModuleList()
        channels = 16
        for group in range(3):
            for i in range((depth - 4) // 6):
                width, stride = 16 * widen * 2**group, 2 if group and not i else 1
                layers = [nn.BatchNorm2d(channels), nn.Conv2d(channels, width, 3, 1, 1, bias=bias)]
                layers += [nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, stride, 1, bias=bias)]
                if width != channels or stride != 1:
                    layers.append(nn.Conv2d(channels, width, 1, stride, bias=bias))
                self.rest.append(nn.ModuleList(layers))
                channels = width
        self.last = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for norm1, conv1, norm2, conv2, *shortcut in self.rest:
            y = conv1(F.relu(norm1(x)))
            y = conv2(F.relu(norm2(y)))
            x = y + (shortcut[0](x) if shortcut else x)
        return F.adaptive_avg_pool2d(F.relu(self.last(x)), 1).flatten(1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [16, 21])
def test_forward_of_an_independent_network(bias: bool, size: int) -> None:
    ours, theirs = wide_resnet((3, size, size), bias=bias).double(), Reference(16, 2, bias).double()
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            b.copy_(a.normal_(std=a[0].numel() ** -0.5))
    x = torch.randn(3, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-10, atol=1e-10)


def test_the_published_size() -> None:
    """36.5 M (Zagoruyko & Komodakis 2016, table 4: 36.5 M with a head for 10 classes), and 640 numbers."""
    with torch.device("meta"):
        net = wide_resnet((3, 84, 84), depth=28, widen=10)
    assert sum(p.numel() for p in net.parameters()) == 36_482_880
    assert net.out_features == 640
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 28  # 25 and three in shortcuts


def test_dropout_is_between_the_convolutions_of_a_block() -> None:
    net, x = wide_resnet(dropout=0.5), torch.rand(2, 3, 16, 16)
    assert [type(m).__name__ for m in net.blocks[0].body][2:5] == ["Conv2d", "Dropout", "BatchNorm"]
    assert not torch.equal(net(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


def test_meta_gradient() -> None:
    maml = gradcheck.as_maml(wide_resnet((2, 8, 8), depth=10, widen=1))
    batch = gradcheck.random_episode(maml, (2, 8, 8), tasks=2)
    assert max(gradcheck.meta_gradient_differences(maml, batch).values()) < gradcheck.TOLERANCE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, "backbone.depth=20, widen=2; depth is 6n \\+ 4"),
        ({"depth": 4}, "backbone.depth=4"),
        ({"widen": 0}, "widen=0; depth is"),
        ({"dropout": 1.0}, r"backbone.dropout=1.0 is not in \[0, 1\)"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        wide_resnet(**options)
