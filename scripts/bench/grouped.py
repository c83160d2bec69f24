"""One convolution with weights of each task's own, and its two derivatives: in which layout, or as matrix products?

    python scripts/bench/grouped.py [--quick] [--json docs/results/bench_grouped.json] [--device cuda]

32 tasks of 5 images, 64 channels in and out, 3x3, at the sizes of Conv4's four blocks with and without strides. All
three are launched one after the other, as in MAML's backward pass.

    nchw    torch.conv2d with 32 groups over [5, 32*64, H, W]: what ops/conv.py does
    nhwc    the same on channels_last tensors
    gemm    patches by unfold, then one batched matrix product of 32 tasks

Columns: nhwc / nchw and gemm / nchw are ratios of times, below 1 where the other way is faster; ms of the three.
"""

from collections.abc import Callable, Sequence
from statistics import median

import torch
from measuring import Row, arguments, report, timed
from torch import Tensor
from torch.nn.functional import unfold

TASKS, IMAGES, CHANNELS = 32, 5, 64
CASES = ((28, 1), (14, 1), (7, 1), (3, 1), (28, 2), (14, 2), (7, 2), (4, 2))  # side of the input, stride


def three(x: Tensor, w: Tensor, g: Tensor, stride: int, groups: int) -> Callable[[], None]:
    """The convolution of x [B, T*C, H, W] and, for g like it, its derivatives by both."""
    rest = (None, [stride] * 2, [1, 1], [1, 1], False, [0, 0], groups, [True, True, False])

    def call() -> None:
        torch.conv2d(x, w, None, stride, 1, 1, groups)
        torch.ops.aten.convolution_backward(g, x, w, *rest)

    return call


def products(x: Tensor, w: Tensor, g: Tensor, stride: int, tasks: int) -> Callable[[], None]:
    """The same as matrix products of each task's patches."""
    images = x.unflatten(1, (tasks, -1)).transpose(0, 1).flatten(0, 1)  # [T*B, C, H, W]
    kernel = w.flatten(1).unflatten(0, (tasks, -1))  # [T, O, C*9]
    out = g.unflatten(1, (tasks, -1)).permute(1, 2, 0, 3, 4).flatten(2).contiguous()  # [T, O, B*h*w]

    def call() -> None:
        p = unfold(images, 3, padding=1, stride=stride).unflatten(0, (tasks, -1)).transpose(1, 2).flatten(2)
        torch.bmm(kernel, p)  # p: [T, C*9, B*h*w]
        torch.bmm(out, p.mT)
        back = torch.bmm(kernel.mT, out).unflatten(2, (len(x), -1)).transpose(1, 2).flatten(0, 1)
        torch.nn.functional.fold(back, x.shape[-2:], 3, padding=1, stride=stride)

    return call


def repeated(call: Callable[[], None], device: str, quick: bool) -> float:
    """Milliseconds of one call among many."""
    count = 1 if quick else 50
    timed(lambda: [call() for _ in range(3)], device)
    return 1e3 * median(timed(lambda: [call() for _ in range(count)], device) / count for _ in range(1 if quick else 5))


def row(side: int, stride: int, device: str, quick: bool) -> Row:
    tasks, channels = (2, 4) if quick else (TASKS, CHANNELS)
    x = torch.randn(IMAGES, tasks * channels, side, side, device=device)
    w = torch.randn(tasks * channels, channels, 3, 3, device=device)
    g = torch.randn_like(torch.conv2d(x, w, None, stride, 1, 1, tasks))
    last = [t.to(memory_format=torch.channels_last) for t in (x, w, g)]
    ms = {
        "nchw": repeated(three(x, w, g, stride, tasks), device, quick),
        "nhwc": repeated(three(*last, stride, tasks), device, quick),
        "gemm": repeated(products(x, w, g, stride, tasks), device, quick),
    }
    return {"nhwc / nchw": ms["nhwc"] / ms["nchw"], "gemm / nchw": ms["gemm"] / ms["nchw"], "side": side,
            "stride": stride, **{f"{way} ms": value for way, value in ms.items()}}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True  # as MAML's step has it
    report("grouped", args, [row(*case, args.device, args.quick) for case in CASES])


if __name__ == "__main__":
    main()
