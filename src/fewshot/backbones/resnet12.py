"""ResNet-12 of few-shot learning, as in MetaOptNet (Lee et al. 2019, arXiv:1904.03758). Layer 1."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from fewshot.errors import InputError, check_choice, check_least, check_share
from fewshot.ops.conv import Conv2d
from fewshot.ops.dropblock import DropBlock
from fewshot.ops.norm import BatchNorm
from fewshot.ops.pool import max_pool


class ResNet12(nn.Module):
    """[B, C, H, W] float32 -> [B, out_features]; four residual blocks, each of which halves the image.

    widths: channels of the four blocks. slope: of LeakyReLU below 0; 0 is ReLU.
    readout: "mean" over the positions, or "flatten" (`map_shape` is what it flattens).
    dropout: rate after blocks 1 and 2. dropblock: rate after blocks 3 and 4, reached after dropblock_steps training
    steps; dropblock_size: side of a square, null: 5, on images below 64 pixels 2 (MetaOptNet's at 84 and at 32).
    Weights are drawn as the papers have it: He's normal by fan-out.

    Max-pooling comes before the last LeakyReLU here: the same values and gradients, from a quarter of the work.
    """

    def __init__(
        self, image_shape: Sequence[int], *, widths: Sequence[int], slope: float, readout: str,
        dropout: float, dropblock: float, dropblock_size: int | None, dropblock_steps: int,
    ) -> None:  # fmt: skip
        super().__init__()
        channels, height, width = image_shape
        check_choice("backbone.readout", readout, ("mean", "flatten"))
        if len(widths) != 4 or min(widths) < 1:
            raise InputError(f"backbone.widths={list(widths)}; ResNet-12 has four blocks of at least one channel")
        check_share("backbone", dropout=dropout, dropblock=dropblock, slope=slope)
        if min(height, width) < 16:
            raise InputError(f"ResNet-12 halves an image four times, these are {height}x{width}; use 16 pixels or more")
        size = dropblock_size if dropblock_size is not None else 5 if min(height, width) >= 64 else 2
        check_least("backbone", 1, dropblock_size=size, dropblock_steps=dropblock_steps)
        drops: list[nn.Module] = [nn.Dropout(dropout) for _ in range(2)]
        drops += [DropBlock(rate=dropblock, size=size, ramp=dropblock_steps) for _ in range(2)]
        inputs = [channels, *widths[:3]]
        self.blocks = nn.Sequential(
            *[ResidualBlock(*block, slope) for block in zip(inputs, widths, drops, strict=True)]
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="leaky_relu")
        self.readout = readout
        self.map_shape = (widths[3], height // 16, width // 16)
        self.out_features = widths[3] * (self.map_shape[1] * self.map_shape[2] if readout == "flatten" else 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)  # [B, widths[3], H // 16, W // 16]
        return x.mean((2, 3)) if self.readout == "mean" else x.flatten(1)


class ResidualBlock(nn.Module):
    """Three convolutions 3x3 beside one of 1x1, each with batch norm; their sum, LeakyReLU, max-pooling, `drop`."""

    def __init__(self, channels: int, width: int, drop: nn.Module, slope: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Conv2d(channels, width, 3, padding=1, bias=False), BatchNorm(width), nn.LeakyReLU(slope),
            Conv2d(width, width, 3, padding=1, bias=False), BatchNorm(width), nn.LeakyReLU(slope),
            Conv2d(width, width, 3, padding=1, bias=False), BatchNorm(width),
        )  # fmt: skip
        self.shortcut = nn.Sequential(Conv2d(channels, width, 1, bias=False), BatchNorm(width))
        self.drop, self.slope = drop, slope

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(leaky_relu(max_pool(self.body(x) + self.shortcut(x)), self.slope))
