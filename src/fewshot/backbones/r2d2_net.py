"""The network of R2D2 (Bertinetto et al. 2019, arXiv:1805.08136, section 4). Layer 1."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from fewshot.backbones.conv4 import MaxPool
from fewshot.errors import InputError, check_share
from fewshot.ops.conv import Conv2d
from fewshot.ops.norm import BatchNorm


class R2D2Net(nn.Module):
    """[B, C, H, W] float32 -> [B, out_features]; four blocks of conv 3x3 with bias, norm, max-pooling, LeakyReLU.

    widths: channels of the blocks. slope: of LeakyReLU. dropout: rate after blocks 3 and 4. Pooling goes by steps of
    two, in block 4 of one. The embedding is block 3's output, pooled once more by steps of one, beside block 4's:
    with 96-192-384-512 8064 numbers at 32x32, 72 576 at 84x84.
    """

    def __init__(self, image_shape: Sequence[int], *, widths: Sequence[int], slope: float, dropout: float) -> None:
        super().__init__()
        channels, height, width = image_shape
        if len(widths) != 4 or min(widths) < 1:
            raise InputError(f"backbone.widths={list(widths)}; the network has four blocks of at least one channel")
        check_share("backbone", dropout=dropout)
        if min(height, width) < 16:
            raise InputError(f"r2d2_net pools an image four times, these are {height}x{width}; use 16 pixels or more")
        pools = [MaxPool(), MaxPool(), MaxPool(), OverlappingMaxPool()]
        rates = [0.0, 0.0, dropout, dropout]
        blocks = zip([channels, *widths[:3]], widths, pools, rates, strict=True)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                Conv2d(before, after, 3, padding=1), BatchNorm(after), pool, nn.LeakyReLU(slope), nn.Dropout(rate)
            )
            for before, after, pool, rate in blocks
        )  # fmt: skip
        self.pool3 = OverlappingMaxPool()
        self.out_features = (widths[2] + widths[3]) * (height // 8 - 1) * (width // 8 - 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks[:3]:
            x = block(x)  # [B, widths[2], H // 8, W // 8] at the end
        return torch.cat([self.pool3(x).flatten(1), self.blocks[3](x).flatten(1)], 1)


class OverlappingMaxPool(nn.Module):
    """The largest of each 2x2 window, by steps of one: [B, C, H, W] -> [B, C, H - 1, W - 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return max_pool2d(x, 2, stride=1)
