"""A training step with its data on a GPU, in each way of launching it; and test episodes.

    python scripts/bench/graphs.py [--quick] [--json docs/results/bench_graphs.json] [--device cuda]

Images of noise lie on the device; a step draws its batch from them as `fewshot train` does it.

    one graph   draw, gathering, augmentation, forward, backward, clipping and optimiser replayed at once: the default
    given       one and the same batch, the model's two graphs: what data cost is the difference to `one graph`
    outside     the batch is drawn and gathered by single launches, then the model's two graphs
    eager       single launches throughout (trainer.cuda_graph=false)
    fused       `one graph`, with batch norm, activation and pooling in one kernel (FEWSHOT_FUSED_NORM=1)

On a CPU, where there are no graphs, `one graph` and `given` are eager, too, and the others are left out.

Columns: steps a second, and times them images a second; ms of a step in each way; data % is the share of `one graph`
that `given` does not have; the differences are the largest of a weight after some steps of `one graph` from those of
`eager` and `fused`, relative to the parameter's norm. Rows `test` are of 400 episodes (images, not cached embeddings),
per episode; their difference is that of the accuracies in percent.
"""

from collections.abc import Callable, Sequence
from typing import Any

from measuring import Load, Row, alone, arguments, largest_difference, report, timed
from ours import Ours, built, noise_images

from fewshot.assemble import make_augment
from fewshot.backbones import conv4
from fewshot.evaluation import evaluate
from fewshot.outer_step import DrawnStep
from fewshot.sampler import EpisodeSampler
from fewshot.streams import stream

COMPARED = 8  # steps after which weights are compared
EPISODES, AT_ONCE = 400, 20
FIVE_WAY = ["train_ways=5", "train_shots=1"]
MAML = ["algorithm=maml", *FIVE_WAY, "algorithm.stream.tasks=32", "train_queries=1", "algorithm.inner_steps=1"]
RESNET = ["algorithm=logistic_regression", "backbone=resnet12", "algorithm.stream.batch_size=64", "augment=cifar",
          "backbone.dropout=0", "backbone.dropblock=0", "trainer/optimizer=sgd"]  # fmt: skip
CASES = {  # channels, side, words
    "protonet, 1 task of 15 queries": (1, 28, ["algorithm=protonet", "backbone=conv4", *FIVE_WAY, "train_queries=15",
                                               "algorithm.stream.tasks=1"]),
    "protonet, 16 tasks of 15 queries": (1, 28, ["algorithm=protonet", "backbone=conv4", *FIVE_WAY, "train_queries=15",
                                                 "algorithm.stream.tasks=16"]),
    "maml, stride, 32 tasks": (1, 28, [*MAML, "backbone=conv4_stride"]),
    "maml, pool, 32 tasks": (1, 28, [*MAML, "backbone=conv4"]),
    "maml, pool, 4 tasks, 5 inner steps": (1, 28, [*MAML, "backbone=conv4", "algorithm.stream.tasks=4",
                                                   "algorithm.inner_steps=5"]),
    "resnet12, 64 images, augmented": (3, 32, RESNET),
}  # fmt: skip
TESTED = ("protonet, 1 task of 15 queries", "maml, pool, 4 tasks, 5 inner steps")
TINY = {"backbone=conv4": ["backbone.filters=4"], "backbone=conv4_stride": ["backbone.filters=4"],
        "backbone=resnet12": ["backbone.widths=[4,4,4,4]"]}  # fmt: skip


def made(case: str, device: str, quick: bool, *more: str) -> tuple[Ours, DrawnStep, Any]:
    """The model of a case, its step with data, and the stream."""
    channels, side, words = CASES[case]
    words = [*words, f"device={device}", *more, *(tiny for word in words if quick for tiny in TINY.get(word, ()))]
    ours = built(words, size=side, channels=channels, classes=64)
    images = noise_images(64, 20 if quick else 100, side, channels=channels).on(ours.machine.device)
    batches = stream(
        ours.algorithm.stream, images, "train", seed=0, within_groups=False, device=ours.machine.device,
        transforms=make_augment(ours.config).train.values(),
    )  # fmt: skip
    return ours, DrawnStep(ours.step, batches), batches


def launched(case: str, way: str, device: str, quick: bool) -> tuple[float, float, list[Any], int]:
    """Milliseconds of a step, what others took of the cores, the weights after COMPARED steps, images of a step."""
    conv4.FUSED = way == "fused"
    eager = ["trainer.cuda_graph=false"] if way == "eager" else []
    ours, with_data, batches = made(case, device, quick, *eager)
    batch, numbers = batches.batch(0), iter(range(10**9))

    def step() -> None:
        k = next(numbers)
        if way == "given":
            ours.step(batch, step=k, rate=1.0)
        elif way == "outside":
            ours.step(batches.batch(k), step=k, rate=1.0)
        else:
            with_data(step=k, rate=1.0)

    for _ in range(COMPARED):
        timed(step, device)
    weights = [p.detach().float().cpu().numpy().copy() for p in ours.algorithm.parameters()]
    images = sum(t.shape[:-3].numel() for t in batch if t.ndim > 3)
    return *several(step, device, quick), weights, images


def several(step: Callable[[], None], device: str, quick: bool) -> tuple[float, float]:
    """The mean over two seconds: more than three blocks of draws, the last of which are graphs as well."""
    count = 2 if quick else 300 if device.startswith("cuda") else 10
    once = timed(lambda: [step() for _ in range(count)], device) / count
    load, count = Load(), 1 if quick else max(10, round(2 / once))
    return 1e3 * timed(lambda: [step() for _ in range(count)], device) / count, load.others()


def training(case: str, device: str, quick: bool) -> Row:
    ways = ["one graph", "given"]
    if device.startswith("cuda"):
        ways += ["outside", "eager", *(["fused"] if case.startswith("maml") else [])]
    found = {way: launched(case, way, device, quick) for way in ways}
    ms = {way: side[0] for way, side in found.items()}
    images, weights = found["one graph"][3], {way: side[2] for way, side in found.items()}
    differences = {
        f"{name} difference": largest_difference(weights["one graph"], weights[way])
        for name, way in (("eager", "eager"), ("fused", "fused")) if way in ways
    }  # fmt: skip
    return {
        "what": "train", "case": case, "steps/s": 1e3 / ms["one graph"], "images/s": 1e3 * images / ms["one graph"],
        "data %": 100 * max(0.0, 1 - ms["given"] / ms["one graph"]), **{f"{way} ms": ms[way] for way in ways},
        **differences, "others %": max(side[1] for side in found.values()),
    }  # fmt: skip


def tested(case: str, device: str, quick: bool) -> Row:
    """Per episode, with and without graphs."""
    ours, _, _ = made(case, device, quick)
    channels, side, _ = CASES[case]
    images = noise_images(64, 20, side, channels=channels).on(ours.machine.device)
    sampler = EpisodeSampler(images, "train", ways=5, shots=1, queries=15, seed=1, device=ours.machine.device)
    sampler.source.count = 10**9  # as of a split too large to be embedded once
    options: dict[str, Any] = {"episodes": 10 if quick else EPISODES, "tasks": 2 if quick else AT_ONCE,
                               "dtype": ours.machine.dtype, "every_step": True}  # fmt: skip
    cuda = device.startswith("cuda")
    evaluate(ours.algorithm, sampler, **options)  # the libraries' own start
    plain, graph = (evaluate(ours.algorithm, sampler, **options, cuda_graph=g and cuda) for g in (False, True))
    each = 1e3 / options["episodes"]
    return {"what": "test", "case": case, "one graph ms": each * graph.seconds, "eager ms": each * plain.seconds,
            "eager difference": float((graph.accuracy - plain.accuracy).abs().max())}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    rows: list[Row] = []
    parts = [(training, case) for case in CASES] + [(tested, case) for case in TESTED]
    for measured, case in parts:
        rows.append(alone(args.quick, measured, case, args.device, args.quick))
        report("graphs", args, rows)  # each time: whatever ends this script, what was measured is kept


if __name__ == "__main__":
    main()
