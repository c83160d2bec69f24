"""The four-block convolutional network of few-shot learning (Vinyals et al. 2016, arXiv:1606.04080). Layer 1."""

import copy
import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fewshot.errors import InputError, check_choice, check_least
from fewshot.ops.conv import Conv2d
from fewshot.ops.norm import NORMS, BatchNorm
from fewshot.ops.pool import max_pool

FUSED = os.environ.get("FEWSHOT_FUSED_NORM") == "1"  # on CUDA: see ops/fused_norm.py, and docs/speed.md for why not
MONOTONE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Softplus, nn.Sigmoid, nn.Tanh)  # their maximum is that of the largest


class Conv4(nn.Module):
    """[B, C, H, W] float32 -> [B, out_features]; blocks of conv 3x3, norm, activation, down-sampling by two.

    filters: channels of every block. blocks: how many.
    downsampling: "pool" (2x2 max after the activation, prototypical networks) or "stride" (in the
        convolution, MAML on Omniglot). downsamplings: how many blocks, from the first on, downsample; null: all.
    unpadded: how many blocks, from the first on, have a convolution without padding (relation networks).
    readout: "flatten" (`map_shape` is what it flattens), "mean" (MAML's 28x28 net with strides) or "max" over
        the positions.
    norm: batch | layer | instance | group | none. norm_scale: false leaves out batch norm's scale (MAML).
    bias: of the convolutions; null: only where the norm, as batch and instance norm do, would not subtract it again.
    activation: a module; each block gets its own copy.
    init: "default" is torch.nn's, "he_fan_out" He's normal by fan-out with biases of 0 (RFS, MetaOptNet).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        filters: int,
        blocks: int,
        downsampling: str,
        readout: str,
        norm: str,
        norm_scale: bool,
        norm_eps: float,
        activation: nn.Module,
        downsamplings: int | None = None,
        unpadded: int = 0,
        bias: bool | None = None,
        init: str = "default",
    ) -> None:
        super().__init__()
        check_least("backbone", 1, filters=filters, blocks=blocks)
        check_choice("backbone.downsampling", downsampling, ("pool", "stride"))
        check_choice("backbone.readout", readout, ("flatten", "mean", "max"))
        check_choice("backbone.norm", norm, tuple(NORMS))
        check_choice("backbone.init", init, ("default", "he_fan_out"))
        for key, value in (("downsamplings", downsamplings), ("unpadded", unpadded)):
            if value is not None and not 0 <= value <= blocks:
                raise InputError(f"backbone.{key}={value} of {blocks} blocks; choose 0 to {blocks}")
        bias = norm not in ("batch", "instance") if bias is None else bias
        options = {"eps": norm_eps} | ({"scale": norm_scale} if norm == "batch" else {})
        channels, (height, width) = image_shape[0], image_shape[1:]
        self.blocks = nn.Sequential()
        for i in range(blocks):
            downsamples, padding = downsamplings is None or i < downsamplings, 0 if i < unpadded else 1
            stride = 2 if downsamples and downsampling == "stride" else 1
            block = [
                Conv2d(channels, filters, 3, stride=stride, padding=padding, bias=bias),
                NORMS[norm](filters, **options),
                copy.deepcopy(activation),
            ]
            height, width = ((n + 2 * padding - 3) // stride + 1 for n in (height, width))
            if downsamples and downsampling == "pool":
                first = isinstance(activation, MONOTONE)  # the same values and gradients from a quarter of the work
                block.insert(2 if first else 3, MaxPool())
                height, width = height // 2, width // 2
            self.blocks.append(ConvBlock(*block))
            channels = filters
        if min(height, width) < 1:
            poolings = blocks if downsamplings is None else downsamplings
            raise InputError(
                f"{poolings} poolings leave nothing of a {image_shape[1]}x{image_shape[2]} image; "
                f"lower backbone.blocks, use downsampling=stride or larger images"
            )
        if init == "he_fan_out":
            self.apply(_he_fan_out)
        self.readout, self.map_shape = readout, (filters, height, width)
        self.out_features = filters * (height * width if readout == "flatten" else 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)  # [B, filters, h, w]
        if self.readout == "max":
            return x.flatten(2).max(2).values
        return x.mean((2, 3)) if self.readout == "mean" else x.flatten(1)


class ConvBlock(nn.Sequential):
    """Convolution, norm, activation and pooling; the names are those of a Sequential."""

    def forward(self, x: Tensor) -> Tensor:
        if FUSED and x.is_cuda and self._fuses():
            return self.fused(x)
        if x.is_cuda or not self._folds():
            return super().forward(x)
        layers: list[Any] = list(self)
        conv, norm, *rest = layers
        weight, shift = norm.folded(conv, x)
        x = conv.convolve(x, weight)
        if isinstance(rest[0], MaxPool):  # the largest stays the largest without the shift
            x = rest.pop(0)(x)
        x = x + shift.to(x.dtype).view(-1, 1, 1)
        for layer in rest:
            x = layer(x)
        return x

    def fused(self, x: Tensor) -> Tensor:
        """The same, with norm, pooling and activation as one kernel."""
        from fewshot.ops.fused_norm import norm_pool  # Triton comes with a CUDA build of PyTorch

        layers: list[Any] = list(self)
        conv, norm, act = layers[0], layers[1], layers[-1]
        given = {"eps": norm.eps, "slope": getattr(act, "negative_slope", 0.0), "side": len(layers) - 2}
        return norm_pool(conv(x), norm.weight, norm.bias, **given)

    def _fuses(self) -> bool:
        """Whether norm, pooling and activation are those of the kernel, with the statistics of the batch."""
        kinds = [type(m) for m in self]
        between = [MaxPool] if len(kinds) == 4 else []
        if kinds[1:-1] != [BatchNorm, *between] or kinds[-1] not in (nn.ReLU, nn.LeakyReLU):
            return False
        norm: Any = self[1]
        hooked = any(m._forward_hooks or m._forward_pre_hooks for m in self)
        return norm.statistics == "batch" and norm.recorded is None and not hooked

    def _folds(self) -> bool:
        """Whether convolution and batch norm are computed as one: for images of few channels, on a CPU.

        On a GPU the small products cost more than the passes over the images that they save. What a user puts in a
        layer's place or hooks to it is called.
        """
        conv, norm = (*self, None, None)[:2]
        plain = type(conv) is Conv2d and type(norm) is BatchNorm and len(self) > 2
        if not plain or any(m._forward_hooks or m._forward_pre_hooks for m in (conv, norm)):
            return False
        usual = conv.bias is None and conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        return usual and 2 * conv.kernel_size[0] * conv.kernel_size[1] * conv.in_channels <= conv.out_channels


class MaxPool(nn.Module):
    """2x2, as torch.nn.MaxPool2d(2)."""

    def forward(self, x: Tensor) -> Tensor:
        return max_pool(x)


def _he_fan_out(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
