"""R2D2's network: the published widths, the forward of a network written independently in torch.nn, meta-gradient."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot import gradcheck
from fewshot.backbones.r2d2_net import R2D2Net
from fewshot.errors import InputError

PAPERS = (96, 192, 384, 512)


def r2d2_net(image_shape: tuple[int, ...] = (3, 32, 32), **options: Any) -> R2D2Net:
    return R2D2Net(image_shape, **({"widths": PAPERS, "slope": 0.1, "dropout": 0.0} | options))


class Reference(nn.Module):
    """The same network with torch.nn's layers, in the order of the authors' code."""

    def __init__(self) -> None:
        super().__init__()
        pairs = zip((3, *PAPERS), PAPERS, strict=False)
        self.layers = nn.ModuleList(nn.ModuleList([nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o)]) for i, o in pairs)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for (conv, norm), stride in zip(self.layers, (2, 2, 2, 1), strict=True):
            x = F.leaky_relu(F.max_pool2d(norm(conv(x)), 2, stride), 0.1)
            outputs.append(x)
        third = F.max_pool2d(outputs[2], 2, 1)
        return torch.cat((third.reshape(len(x), -1), outputs[3].reshape(len(x), -1)), 1)


@pytest.mark.parametrize("size", [32, 28])
def test_forward_of_an_independent_network(size: int) -> None:
    ours, theirs = r2d2_net((3, size, size)).double(), Reference().double()
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            b.copy_(a.normal_(std=a[0].numel() ** -0.5))
    x = torch.randn(3, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("size", "features"), [(32, 8_064), (84, 72_576)])
def test_the_papers_sizes(size: int, features: int) -> None:
    net = r2d2_net((3, size, size)).eval()
    assert net(torch.zeros(1, 3, size, size)).shape == (1, features)
    assert net.out_features == features
    assert sum(p.numel() for p in net.parameters()) == 2_605_056


def test_dropout_is_after_blocks_three_and_four() -> None:
    net = r2d2_net(dropout=0.4)
    assert [block[-1].p for block in net.blocks] == [0, 0, 0.4, 0.4]
    x = torch.rand(2, 3, 32, 32)
    assert not torch.equal(net(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


def test_meta_gradient() -> None:
    maml = gradcheck.as_maml(r2d2_net((2, 16, 16), widths=(4, 5, 6, 7)))
    batch = gradcheck.random_episode(maml, (2, 16, 16), tasks=2)
    assert max(gradcheck.meta_gradient_differences(maml, batch).values()) < gradcheck.TOLERANCE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (64,)}, r"backbone.widths=\[64\]; the network has four blocks"),
        ({"dropout": -0.5}, r"backbone.dropout=-0.5 is not in \[0, 1\)"),
        ({"image_shape": (3, 15, 32)}, "pools an image four times, these are 15x32; use 16 pixels or more"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        r2d2_net(**options)
