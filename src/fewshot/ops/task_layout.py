"""Where tasks lie beside each other: T tasks of images [B, C, H, W] as one operation over [B, T*C, H, W]. Layer 0.

T tasks with weights of their own are one convolution with T groups over such images. Under `vmap` the layers of `conv`,
`batch_norm` and `pool` all stay in that layout, one after the other, and nothing is copied; PyTorch's own rules move
the tasks to the front and back.
"""

import torch
from torch import Tensor


def joined(t: Tensor, axis: int | None, tasks: int) -> Tensor:
    """[B, C, ...] of each task -> [B, T*C, ...], [C] of each -> [T*C]; axis: the tasks', None where they share it."""
    to = 1 if t.ndim - (axis is not None) > 1 else 0
    t = t.unsqueeze(to).expand(*t.shape[:to], tasks, *t.shape[to:]) if axis is None else t.movedim(axis, to)
    return t.flatten(to, to + 1)


def parted(t: Tensor, tasks: int) -> Tensor:
    """The inverse: the tasks in an axis before the channels."""
    return t.unflatten(1 if t.ndim > 1 else 0, (tasks, -1))


def placeholder(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor that is never read, in the layout of `like`, for functions that need only its shape."""
    last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=layout)


def column(t: Tensor, like: Tensor) -> Tensor:
    """[C] -> [C, 1, 1], to go with [B, C, H, W]."""
    return t.view(-1, *[1] * (like.ndim - 2))
