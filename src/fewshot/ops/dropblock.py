"""DropBlock, and layers that depend on how long a network has been trained. Layer 0."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Scheduled(nn.Module):
    """A layer that depends on the number of training steps done: `steps`, an int64 scalar buffer.

    A forward only reads it. Whoever trains counts it up once per training step (`count_training_step`; the trainer
    does), so that it does not matter how many forwards a step makes (support and query, inner steps, chunks, tasks
    under `vmap`), and evaluations do not count.
    """

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


def step_counters(module: nn.Module) -> list[Tensor]:
    """The counters of all scheduled layers of a network."""
    return [m.steps for m in module.modules() if isinstance(m, Scheduled)]


def count_training_step(module: nn.Module) -> None:
    """One training step is done. Without this call in a loop of one's own, DropBlock drops nothing."""
    for counter in step_counters(module):
        counter += 1


class DropBlock(Scheduled):
    """Drops squares of `size` x `size` positions of [B, C, H, W] in training (Ghiasi et al. 2018, arXiv:1810.12890).

    The share that is dropped rises linearly from 0 at the first step to `rate` after `ramp` steps and stays there
    (MetaOptNet's code: keep = max(1 - 0.1 n / 40000, 0.9)). A square starts at a position from which it fits with
    probability (1 - keep) / size^2 * H W / ((H - size + 1) (W - size + 1)); what is left is scaled so that its sum
    is as if all were there. On a map smaller than `size` the square is as large as the map.

    Differences from that code: n counts training steps, not forwards, and starts at 0; a batch of which nothing is
    left is 0, not NaN.
    """

    def __init__(self, *, rate: float, size: int, ramp: int) -> None:
        super().__init__()
        self.rate, self.size, self.ramp = rate, size, ramp

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        height, width = x.shape[-2:]
        size = min(self.size, height, width)
        inner = x[..., : height - size + 1, : width - size + 1]  # where the upper left corner of a square can lie
        dropped = (self.steps * (self.rate / self.ramp)).clamp(max=self.rate)  # a tensor: no question to the device
        gamma = dropped * (height * width / (size**2 * inner.shape[-2] * inner.shape[-1]))
        corner = torch.rand_like(inner, dtype=torch.float32) < gamma  # bf16 has too few numbers for a small gamma
        squares = F.max_pool2d(F.pad(corner.to(x.dtype), [size - 1] * 4), size, stride=1)  # [B, C, H, W]
        kept = 1 - squares
        scale = kept.numel() / kept.sum(dtype=torch.float32).clamp(min=1)
        return x * kept * scale.to(x.dtype)

    def extra_repr(self) -> str:
        return f"rate={self.rate}, size={self.size}, ramp={self.ramp}"
