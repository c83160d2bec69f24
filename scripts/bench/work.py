"""What a step has to compute and to move, and what the machine can do of both in a second.

operations   multiplications and additions of the convolutions and matrix products of the step
             (torch.utils.flop_counter), counted on the plain form, so that they are those of the mathematics
bytes        what these same products must read and write: each of their inputs and outputs once, float32. All that
             lies between two of them (norm, activation, pooling, and what differentiates these) is taken to cost
             nothing, as if it were fused into them.
floor        the larger of operations / matrix speed and bytes / copy speed: both can go on at the same time

matrix speed is the best of square products of 512 to 2048 (on CUDA of 4096 and 8192), in bf16 on CUDA and for a step in
bf16, else in float32; copy speed that of a copy far larger than the caches (bytes read plus bytes written), both with
as many threads as cores. The floor is below what anyone will reach: a convolution is no square product, and its
surroundings are not free.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from measuring import timed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

PRODUCTS = ("convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm")


class Work(NamedTuple):
    """What one step has to do."""

    operations: float
    bytes: float

    def times(self, factor: int) -> "Work":
        return Work(self.operations * factor, self.bytes * factor)


class Speed(NamedTuple):
    """What the machine can do in a second."""

    matrix: float  # operations
    copy: float  # bytes


class _Bytes(TorchDispatchMode):
    """Sums the sizes of the inputs and outputs of all products."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in PRODUCTS:
            outputs = out if isinstance(out, tuple) else (out,)
            self.total += sum(t.nbytes for t in (*args, *outputs) if isinstance(t, torch.Tensor))
        return out


def counted(step: Callable[[], Any]) -> Work:
    """Operations and bytes of the products in `step`."""
    flops, traffic = FlopCounterMode(display=False), _Bytes()
    with flops, traffic:
        step()
    return Work(flops.get_total_flops(), traffic.total)


def floor_seconds(work: Work, machine: Speed) -> float:
    """The least time that the step can take."""
    return max(work.operations / machine.matrix, work.bytes / machine.copy)


def machine_speed(device: str, quick: bool, precision: str = "fp32") -> Speed:
    """Measured; the best of some repetitions, since nothing can make a machine faster than it is."""
    matrix, repetitions, cuda = 0.0, 1 if quick else 10, device.startswith("cuda")
    sizes, dtype = (4096, 8192) if cuda else (512, 1024, 2048), torch.float32
    if cuda or precision == "bf16":
        dtype = torch.bfloat16
    for n in (64,) if quick else sizes:
        a, b, out = (torch.rand(n, n, device=device).to(dtype) for _ in range(3))
        best = min(timed(lambda: torch.mm(a, b, out=out), device) for _ in range(repetitions))  # noqa: B023
        matrix = max(matrix, 2 * n**3 / best)
    source = torch.zeros(1 << (16 if quick else 26), device=device)  # 256 MB
    target = torch.zeros_like(source)
    best = min(timed(lambda: target.copy_(source), device) for _ in range(repetitions))
    return Speed(matrix, 2 * source.nbytes / best)
