"""ProtoNet's training step: against the plain eager form and against easyfsl, and with the way from files to tensors.

    python scripts/bench/protonet.py [--quick] [--json docs/results/bench_protonet.json] [--device cuda]

60-way, 5 queries, Conv4-64 with pooling on 28x28 images, and 30-way, 15 queries on colour images of 84x84
(miniImageNet), Adam; each side in a process of its own.

    plain    the form that papers' reimplementations have: torch.nn layers, NCHW float32, torch.cdist squared, no
             set-up of allocator or threads; the gradients of its first step are compared with ours
    easyfsl  its episodic training: PrototypicalNetworks on the same network (process_support_set, then the queries;
             Euclidean distance, not squared), in the same optimiser
    ours     the configuration that `fewshot train` builds, with precision=auto and, where that is bf16, with fp32

Rows `step` are compute only, from one batch of noise. Rows `with data` draw every batch from Omniglot's training
characters as each side does it: easyfsl's EasySet over extracted PNG files, TaskSampler and DataLoader (with no and
with two workers; the faster counts), ours the sampler of a run. There the times are means over all steps.

Columns: ratios of times; ms per step; MB is peak memory above idle; x floor is our time over the floor of work.py;
difference is the largest of our gradient to the plain form's, relative to each tensor's norm.
"""

import itertools
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import omniglot_files
import torch
import torch.nn.functional as F
from measuring import Measured, Row, alone, arguments, largest_difference, measure, missing, report, timed
from plain import Shape, conv4, placed, random_tasks
from torch import Tensor, nn
from work import Speed, Work, counted, floor_seconds, machine_speed

WARM = 3  # steps
PHOTOS = Shape("pool", tasks=1, ways=30, shots=1, queries=15, size=84, channels=3)
Step = Callable[[Any], Any]  # of one batch


def plain_step(shape: Shape) -> tuple[Step, nn.Module, Any]:
    """A step of the plain form, its network and a batch for it."""
    net = placed(conv4(shape, running=True), shape)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step(batch: tuple[Tensor, ...]) -> None:
        support_x, _, query_x, query_y = batch
        z = net(torch.cat([support_x, query_x]))
        prototypes = z[: len(support_x)].view(shape.ways, shape.shots, -1).mean(1)
        loss = F.cross_entropy(-(torch.cdist(z[len(support_x) :], prototypes) ** 2), query_y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step, net, tuple(tensor[0] for tensor in random_tasks(shape))


def easyfsl_step(shape: Shape) -> tuple[Step, nn.Module, Any]:
    from easyfsl.methods import PrototypicalNetworks

    net = placed(conv4(shape, running=True), shape)
    classifier = PrototypicalNetworks(net)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)

    def step(batch: tuple[Tensor, ...]) -> None:
        support_x, support_y, query_x, query_y, *_ = (t.to(shape.device) for t in batch if isinstance(t, Tensor))
        optimizer.zero_grad()
        classifier.process_support_set(support_x, support_y)
        F.cross_entropy(classifier(query_x), query_y).backward()
        optimizer.step()

    return step, net, tuple(tensor[0] for tensor in random_tasks(shape))


def our_step(shape: Shape, *more: str) -> tuple[Step, nn.Module, Any]:
    from ours import for_shape

    ours, batch = for_shape(shape, "algorithm=protonet", *more)
    return lambda batch: ours.step(batch, step=0, rate=1.0), ours.algorithm, batch


STEPS = {"plain": plain_step, "easyfsl": easyfsl_step, "ours": our_step}


def side(name: str, shape: Shape, quick: bool, *more: str) -> Measured:
    """Gradients of the first step, then time and memory, from one batch."""
    step, net, batch = STEPS[name](shape, *more)
    return measure(lambda: step(batch), shape.device, net=net, quick=quick)


def compute(shape: Shape, precision: str, quick: bool, machine: Speed) -> Row:
    """A row without data."""
    plain = alone(quick, side, "plain", shape, quick)
    ours = alone(quick, side, "ours", shape, quick, f"precision={precision}")
    photos = shape.channels > 1  # seven seconds a step on both sides: one of them is enough
    easyfsl = None if photos or missing("easyfsl") else alone(quick, side, "easyfsl", shape, quick)
    least = floor_seconds(alone(quick, count, shape), machine)
    return {
        "plain / ours": plain.ms / ours.ms, "easyfsl / ours": easyfsl and easyfsl.ms / ours.ms, "what": "step",
        "image": shape.image, "shots": shape.shots, "precision": precision, "ours ms": ours.ms, "plain ms": plain.ms,
        "easyfsl ms": easyfsl and easyfsl.ms,
        "x floor": ours.ms / 1e3 / least, "ours MB": ours.mb, "plain MB": plain.mb,
        "easyfsl MB": easyfsl and easyfsl.mb,
        "others %": max(side.others for side in (ours, plain, easyfsl) if side),
        "difference": largest_difference(ours.gradients, plain.gradients),
    }  # fmt: skip


def with_data(shape: Shape, precision: str, quick: bool) -> Row:
    """A row that draws from files."""
    steps = 2 if quick else 12 if shape.shots == 1 else 8
    ours = alone(quick, our_data, shape, precision, steps, quick)
    row: Row = {
        "easyfsl / ours": None, "what": "with data", "image": shape.image, "shots": shape.shots, "precision": precision,
        "ours ms": 1e3 * ours,
    }  # fmt: skip
    if not missing("easyfsl"):
        with TemporaryDirectory() as folder:
            characters = omniglot_files.noise(Path(folder)) if quick else omniglot_files.extract(Path(folder))
            theirs = {w: alone(quick, easyfsl_data, shape, steps, characters, w) for w in ((0,) if quick else (0, 2))}
        best = min(theirs, key=lambda workers: theirs[workers])
        row |= {"easyfsl / ours": theirs[best] / ours, "easyfsl ms": 1e3 * theirs[best], "easyfsl workers": best}
    return row


def our_data(shape: Shape, precision: str, steps: int, quick: bool) -> float:
    """Seconds per step with the sampler of a run."""
    from ours import for_shape, noise_images

    from fewshot.assemble import load_images
    from fewshot.streams import stream

    ours, _ = for_shape(
        shape, "algorithm=protonet", "dataset=omniglot", "dataset.rotations=none", f"precision={precision}"
    )
    images = noise_images(10, 20, shape.size) if quick else load_images(ours.config)
    batches = stream(
        ours.algorithm.stream, images.on(ours.machine.device), "train", seed=0, within_groups=False,
        device=ours.machine.device,
    )  # fmt: skip
    numbers = iter(range(steps + WARM))
    double = shape.dtype == "float64"

    def step() -> None:
        k = next(numbers)
        batch = batches.batch(k)
        batch = batch._replace(support_x=batch.support_x.double(), query_x=batch.query_x.double()) if double else batch
        ours.step(batch, step=k, rate=1.0)

    return seconds_per_step(step, steps, shape.device)


def easyfsl_data(shape: Shape, steps: int, characters: omniglot_files.Folders, workers: int) -> float:
    """Seconds per step with EasySet, TaskSampler and DataLoader."""
    loader = iter(omniglot_files.easyfsl_loader(characters, shape, steps + WARM, workers))
    step, _, _ = easyfsl_step(shape)
    return seconds_per_step(lambda: step(next(loader)), steps, shape.device)


def seconds_per_step(step: Callable[[], Any], steps: int, device: str) -> float:
    """The mean: what a loader's workers have ready for one step is missing in another."""
    for _ in range(WARM):
        timed(step, device)
    return sum(timed(step, device) for _ in range(steps)) / steps


def count(shape: Shape) -> Work:
    """What one step has to do."""
    step, _, batch = plain_step(shape)
    return counted(lambda: step(batch))


def shapes(args: Namespace) -> list[Shape]:
    if args.quick:
        return [
            Shape("pool", tasks=1, ways=5, shots=2, queries=2, size=16, filters=4, dtype="float64", device=args.device)
        ]
    shots = (1,) if args.goals else (1, 5)
    of_omniglot = [Shape("pool", tasks=1, ways=60, shots=k, queries=5, device=args.device) for k in shots]
    return [*of_omniglot, PHOTOS._replace(device=args.device)]


def precisions(args: Namespace) -> Sequence[str]:
    """The precision that `auto` chooses, then fp32."""
    from fewshot.algorithms.protonet import ProtoNet
    from fewshot.engine.runtime import pick_precision

    auto = pick_precision("auto", torch.device(args.device), auto=ProtoNet.auto_precision)
    return ("fp32",) if args.quick else (auto, "fp32") if auto != "fp32" else (auto,)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    machine = {p: alone(args.quick, machine_speed, args.device, args.quick, p) for p in precisions(args)}
    rows: list[Row] = []
    for measured in (lambda *case: compute(*case, machine[case[1]]), with_data):
        for shape, precision in itertools.product(shapes(args), machine):
            if measured is with_data and shape.channels > 1:  # the files are Omniglot's
                continue
            rows.append(measured(shape, precision, args.quick))
            print(rows[-1], flush=True)
    report("protonet", args, rows, speed=machine["fp32"]._asdict())


if __name__ == "__main__":
    main()
