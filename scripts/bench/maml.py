"""MAML's outer step: all tasks at once, against a plain loop over tasks and against `higher`.

    python scripts/bench/maml.py [--quick] [--json docs/results/bench_maml.json] [--device cuda]

32 tasks, 5-way 1-shot, Conv4-64 on 28x28 images; then, as the authors ran miniImageNet, 4 tasks with Conv4-32 on
colour images of 84x84. All sides take the same step: same weights, same tasks, Adam; each
runs in a process of its own. The gradients of the first step are compared in the same run.

    loop     for each task torch.autograd.grad(create_graph=True) per inner step, and one backward (which frees its
             graph); plain functions of torch.nn.functional, as little overhead as a loop can have
    higher   its documented loop (innerloop_ctx, torch.optim.SGD inside) on torch.nn layers
    jax      jit around a vmap over the tasks (with_jax.py), where JAX is installed
    ours     the configuration that `fewshot train` builds, allocator and threads set up as it does it

Columns: loop / ours and higher / ours are ratios of median times; chunk is algorithm.task_chunk (the largest that
needs no more memory than the loop's one task at a time, in rows of their own); MB is peak memory above idle; x floor
is our time over the floor of work.py; difference is the largest of our gradient to the loop's over all parameter
tensors, relative to the tensor's norm; higher difference and jax difference those to theirs.
"""

import inspect
import itertools
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import with_jax
from measuring import Measured, Row, alone, arguments, largest_difference, measure, missing, report
from plain import Shape, conv4, placed, random_tasks, with_head
from torch import Tensor, nn
from work import Speed, Work, counted, floor_seconds, machine_speed

INNER_LR = 0.1
PHOTOS = Shape("pool", tasks=4, queries=15, size=84, channels=3, filters=32)


class Case(NamedTuple):
    shape: Shape
    inner_steps: int = 1
    first_order: bool = False
    task_chunk: int | None = None


def logits(weights: list[Tensor], x: Tensor, shape: Shape) -> Tensor:
    """Conv4 and its head; four weights for each block, two for the head."""
    strided = shape.downsampling == "stride"
    for kernel, bias, scale, shift in zip(*[iter(weights[:-2])] * 4, strict=True):
        x = F.conv2d(x, kernel, bias, stride=2 if strided else 1, padding=1)
        x = F.relu(F.batch_norm(x, None, None, scale, shift, training=True))
        x = x if strided else F.max_pool2d(x, 2)
    return F.linear(x.mean((2, 3)) if strided else x.flatten(1), *weights[-2:])


def loop_step(case: Case, tasks: int | None = None) -> tuple[Callable[[], Any], nn.Module]:
    """The step of the plain loop (over the first `tasks` only) and the module that it trains."""
    net = placed(with_head(conv4(case.shape, running=False), case.shape), case.shape)
    weights, optimizer = list(net.parameters()), torch.optim.Adam(net.parameters(), lr=1e-3)
    batch = [tensor[:tasks] for tensor in random_tasks(case.shape)]

    def step() -> None:
        optimizer.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
            fast = weights
            for _ in range(case.inner_steps):
                loss = F.cross_entropy(logits(fast, support_x, case.shape), support_y)
                grads = torch.autograd.grad(loss, fast, create_graph=not case.first_order)
                fast = [w - INNER_LR * g for w, g in zip(fast, grads, strict=True)]
            loss = F.cross_entropy(logits(fast, query_x, case.shape), query_y)
            (loss / len(batch[0])).backward()
        optimizer.step()

    return step, net


def higher_step(case: Case) -> tuple[Callable[[], Any], nn.Module]:
    import warnings

    warnings.simplefilter("ignore", SyntaxWarning)  # `is` with a literal, in its source
    import higher

    net = placed(with_head(conv4(case.shape, running=False), case.shape), case.shape)
    weights, optimizer = list(net.parameters()), torch.optim.Adam(net.parameters(), lr=1e-3)
    inner = torch.optim.SGD(net.parameters(), lr=INNER_LR)
    batch = random_tasks(case.shape)

    def step() -> None:
        optimizer.zero_grad()
        for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
            options = {"copy_initial_weights": False, "track_higher_grads": not case.first_order}
            with higher.innerloop_ctx(net, inner, **options) as (fast, steps):
                for _ in range(case.inner_steps):
                    steps.step(F.cross_entropy(fast(support_x), support_y))
                loss = F.cross_entropy(fast(query_x), query_y) / case.shape.tasks
                if not case.first_order:
                    loss.backward()
                    continue
                for w, g in zip(weights, torch.autograd.grad(loss, list(fast.parameters())), strict=True):
                    w.grad = g if w.grad is None else w.grad + g
        optimizer.step()

    return step, net


def our_step(case: Case, *more: str) -> tuple[Callable[[], Any], nn.Module]:
    from ours import for_shape

    chunk = "null" if case.task_chunk is None else case.task_chunk
    ours, batch = for_shape(
        case.shape, "algorithm=maml", f"algorithm.inner_lr={INNER_LR}", f"algorithm.inner_steps={case.inner_steps}",
        f"algorithm.first_order={str(case.first_order).lower()}", f"algorithm.task_chunk={chunk}",
        "algorithm.adapt_norm=true", *more,
    )  # fmt: skip
    return lambda: ours.step(batch, step=0, rate=1.0), ours.algorithm


def has_option(name: str) -> bool:
    """Whether MAML's constructor knows it."""
    from fewshot.algorithms.maml import MAML

    return name in inspect.signature(MAML).parameters


STEPS = {"loop": loop_step, "higher": higher_step, "ours": our_step}


def side(name: str, case: Case, quick: bool) -> Measured:
    """Gradients of the first step, then time and memory."""
    if name == "jax":
        step, gradients = with_jax.jax_step(case, INNER_LR)
        return measure(step, "cpu", quick=quick)._replace(gradients=gradients())
    step, net = STEPS[name](case)
    return measure(step, case.shape.device, net=net, quick=quick)


def row(case: Case, quick: bool, machine: Speed, chunks: Iterable[int] = ()) -> Iterable[Row]:
    """One setting, then in a row of its own the largest of `chunks` that needs no more memory than the loop."""
    loop = alone(quick, side, "loop", case, quick)
    higher, jax = (None if missing(peer) else alone(quick, side, peer, case, quick) for peer in ("higher", "jax"))
    least = floor_seconds(alone(quick, count, case), machine)
    for chunk in (None, *chunks):
        ours = alone(quick, side, "ours", case._replace(task_chunk=chunk), quick)
        if chunk is None or ours.mb <= 1.05 * loop.mb or chunk == 1:
            yield {
                "loop / ours": loop.ms / ours.ms, "higher / ours": higher and higher.ms / ours.ms,
                "jax / ours": jax and jax.ms / ours.ms,
                "image": case.shape.image, "network": case.shape.downsampling, "queries": case.shape.queries,
                "inner steps": case.inner_steps, "order": 1 if case.first_order else 2, "chunk": chunk or "all",
                "ours ms": ours.ms, "loop ms": loop.ms,
                "higher ms": higher and higher.ms, "jax ms": jax and jax.ms,
                "x floor": ours.ms / 1e3 / least, "ours MB": ours.mb,
                "loop MB": loop.mb, "higher MB": higher and higher.mb,
                "others %": max(side.others for side in (ours, loop, higher, jax) if side),
                "difference": largest_difference(ours.gradients, loop.gradients),
                "higher difference": higher and largest_difference(ours.gradients, higher.gradients),
                "jax difference": jax and largest_difference(ours.gradients, jax.gradients),
            }  # fmt: skip
        if chunk is not None and ours.mb <= 1.05 * loop.mb:
            return


def count(case: Case) -> Work:
    """What one step has to do: that of one task, for all of them."""
    return counted(loop_step(case, tasks=1)[0]).times(case.shape.tasks)


def cases(args: Namespace) -> list[Case]:
    if args.quick:
        shape = Shape("pool", tasks=3, queries=2, size=16, filters=4, dtype="float64", device=args.device)
        return [Case(shape, 2, first) for first in (False, True)]
    photos = [Case(PHOTOS._replace(device=args.device), 5, first) for first in (False, True)]
    nets = ("stride", "pool")
    if args.goals:
        of_all = [Case(Shape("pool", queries=15, device=args.device), 1, True)]
        return [*[Case(Shape(net, device=args.device)) for net in nets], *of_all, *photos]
    shapes = [Shape(net, queries=q, device=args.device) for net in nets for q in (1, 15)]
    return [Case(*options) for options in itertools.product(shapes, (1, 5), (False, True))] + photos


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    machine = alone(args.quick, machine_speed, args.device, args.quick)
    rows: list[Row] = []
    for case in cases(args):
        chunked = case.shape.queries < 15 and not case.first_order and not args.goals
        for one in row(case, args.quick, machine, (1,) if args.quick else (4, 2, 1) if chunked else ()):
            rows.append(one)
            print(one, flush=True)
    report("maml", args, rows, speed=machine._asdict())


if __name__ == "__main__":
    main()
