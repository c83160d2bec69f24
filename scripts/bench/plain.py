"""The other side in plain PyTorch, as users of other libraries have it: nothing of fewshot, no set-up of any kind.

NCHW float32, torch.nn layers, PyTorch's own allocator and threads. Weights and tasks are drawn here for both
sides: the same numbers in the same order of parameters (kernel, scale, shift, ..., head).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Shape(NamedTuple):
    """A meta-batch and its network."""

    downsampling: str = "stride"  # stride (mean over positions) or pool (flattened)
    tasks: int = 32
    ways: int = 5
    shots: int = 1
    queries: int = 1
    size: int = 28
    channels: int = 1
    filters: int = 64
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def image(self) -> str:
        return f"{self.channels}x{self.size}x{self.size}"


def conv4(shape: Shape, *, running: bool) -> nn.Sequential:
    """Conv4 of torch.nn layers; running: batch norm keeps running averages."""
    layers: list[nn.Module] = []
    channels, strided = shape.channels, shape.downsampling == "stride"
    for _ in range(4):
        layers += [
            nn.Conv2d(channels, shape.filters, 3, stride=2 if strided else 1, padding=1),
            nn.BatchNorm2d(shape.filters, track_running_stats=running), nn.ReLU(),
        ]  # fmt: skip
        layers += [] if strided else [nn.MaxPool2d(2)]
        channels = shape.filters
    return nn.Sequential(*layers, *([nn.AdaptiveAvgPool2d(1)] if strided else []), nn.Flatten())


def with_head(net: nn.Sequential, shape: Shape) -> nn.Sequential:
    with torch.no_grad():
        width = net(torch.zeros(2, shape.channels, shape.size, shape.size)).shape[1]
    return nn.Sequential(*net, nn.Linear(width, shape.ways))


def placed(module: nn.Module, shape: Shape) -> nn.Module:
    """On the device, in the precision, with the weights that both sides start from."""
    module.to(shape.device, getattr(torch, shape.dtype))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name in idle_biases(module):
                p.zero_()
                continue
            noise = torch.randn(p.shape, generator=draw, dtype=torch.float64)
            if p.ndim > 1:  # He et al. 2015
                p.copy_(noise * (2 / p[0].numel()) ** 0.5)  # by value: the other side may have another layout
            else:
                p.copy_(0.1 * noise + (1 if name.endswith("weight") else 0))  # a norm's scale; a bias
    return module


def idle_biases(module: nn.Module) -> set[str]:
    """Names of the convolutions' biases, which do nothing in front of batch norm: ours has none."""
    return {f"{name}.bias" for name, m in module.named_modules() if isinstance(m, nn.Conv2d) and m.bias is not None}


def random_tasks(shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noise images [T, N*K, C, H, W] and labels [T, N*K], the same on each call; then those of the queries."""
    draw = torch.Generator().manual_seed(1)

    def images(each: int) -> Tensor:
        of_task = (shape.ways * each, shape.channels, shape.size, shape.size)
        x = torch.rand(shape.tasks, *of_task, generator=draw, dtype=torch.float64)
        return x.to(shape.device, getattr(torch, shape.dtype))

    def labels(each: int) -> Tensor:
        return torch.arange(shape.ways, device=shape.device).repeat_interleave(each).repeat(shape.tasks, 1)

    return images(shape.shots), labels(shape.shots), images(shape.queries), labels(shape.queries)
