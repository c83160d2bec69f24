"""Wide residual network of few-shot learning (Zagoruyko & Komodakis 2016, arXiv:1605.07146). Layer 1."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu

from fewshot.errors import InputError, check_share
from fewshot.ops.conv import Conv2d
from fewshot.ops.norm import BatchNorm


class WideResNet(nn.Module):
    """[B, C, H, W] float32 -> [B, 64 * widen]; three groups of (depth - 4) / 6 blocks, mean over the positions.

    Norm and ReLU come before each convolution; the second and the third group halve the image, in the second
    convolution of their first block, as in the code that FEAT, RFS and SimpleShot share (the paper: in the first).
    dropout: between a block's two convolutions. bias: of the convolutions.

    Differences from that code: the last batch norm's running statistics move by 0.1 a step as all others do, there
    by 0.9.
    """

    def __init__(self, image_shape: Sequence[int], *, depth: int, widen: int, dropout: float, bias: bool) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or widen < 1:
            raise InputError(f"backbone.depth={depth}, widen={widen}; depth is 6n + 4 (10, 16, ...), widen 1 or more")
        check_share("backbone", dropout=dropout)
        channels = 16
        self.stem = Conv2d(image_shape[0], channels, 3, padding=1, bias=bias)
        blocks = []
        for width, stride in ((16 * widen, 1), (32 * widen, 2), (64 * widen, 2)):
            for i in range((depth - 4) // 6):
                blocks.append(WideBlock(channels, width, stride if i == 0 else 1, dropout, bias))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = BatchNorm(channels)
        self.out_features = channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))  # [B, 64 * widen, H / 4, W / 4]
        return relu(self.norm(x)).mean((2, 3))


class WideBlock(nn.Module):
    """Norm, ReLU, convolution, dropout, norm, ReLU, convolution, beside a 1x1 convolution where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            BatchNorm(channels), nn.ReLU(), Conv2d(channels, width, 3, padding=1, bias=bias), nn.Dropout(dropout),
            BatchNorm(width), nn.ReLU(), Conv2d(width, width, 3, stride=stride, padding=1, bias=bias),
        )  # fmt: skip
        same = channels == width and stride == 1
        self.shortcut = nn.Identity() if same else Conv2d(channels, width, 1, stride=stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)
