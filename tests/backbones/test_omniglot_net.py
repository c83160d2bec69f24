"""The Omniglot tutorial's network."""

import pytest
import torch
from torch import nn

from fewshot.backbones.omniglot_net import OmniglotNet
from fewshot.errors import InputError


@pytest.mark.parametrize("size", [16, 28, 31])
def test_shapes(size: int) -> None:
    net = OmniglotNet((1, size, size))
    z = net(torch.rand(3, 1, size, size))
    assert z.shape == (3, net.out_features) == (3, 64)
    assert (z >= 0).all()


def test_a_linear_layer_and_relu_follow_the_blocks() -> None:
    net = OmniglotNet((1, 28, 28)).eval()
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(
        net(x), nn.functional.relu(nn.functional.linear(net.features(x), net.linear.weight, net.linear.bias))
    )
    blocks = 9 * 64 + 3 * 9 * 64 * 64 + 4 * 2 * 64
    assert sum(p.numel() for p in net.parameters()) == blocks + 65 * 64


def test_other_sizes_are_refused_with_the_fix() -> None:
    with pytest.raises(InputError, match=r"wants images of 16 to 31 pixels .* these are 32x32; set dataset\.size=28"):
        OmniglotNet((1, 32, 32))
