"""The fully connected network."""

import pytest
import torch
from torch import nn

from fewshot.backbones.mlp import MLP
from fewshot.errors import InputError


def test_layers_of_the_paper() -> None:
    net = MLP((1, 28, 28), widths=[256, 128, 64, 64], norm="batch")
    assert net.out_features == 64
    assert [m.weight.shape for m in net.modules() if isinstance(m, nn.Linear)] == [
        (256, 784),
        (128, 256),
        (64, 128),
        (64, 64),
    ]


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_linear_norm_relu(norm: str) -> None:
    net = MLP((2, 3, 4), widths=[7, 5], norm=norm)
    theirs = nn.Sequential(nn.Flatten())
    for inputs, width in ((24, 7), (7, 5)):
        theirs.extend(
            [nn.Linear(inputs, width), nn.BatchNorm1d(width) if norm == "batch" else nn.Identity(), nn.ReLU()]
        )
    with torch.no_grad():
        for a, b in zip(net.parameters(), theirs.parameters(), strict=True):
            b.copy_(a.normal_())
    x = torch.rand(6, 2, 3, 4)
    torch.testing.assert_close(net(x), theirs(x))
    torch.testing.assert_close(net.eval()(x), theirs.eval()(x))


def test_unknown_norm() -> None:
    with pytest.raises(InputError, match=r"backbone\.norm=layer is unknown; choose batch or none"):
        MLP((1, 4, 4), widths=[3], norm="layer")
