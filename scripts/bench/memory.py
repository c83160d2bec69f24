"""Memory of second-order MAML on ResNet-12 with 3x84x84 images, and what each lever takes off it.

    python scripts/bench/memory.py [--quick] [--json docs/results/bench_memory.json] [--device cuda]

Four tasks, 5-way 1-shot, 15 queries per class, float32, 64-160-320-640 channels; on a CPU two tasks of 3 queries with a
quarter of the channels, where activations, nearly all of it, take a quarter of the memory. Each row in a process of its
own. Nothing but the levers differs between the rows, and all but `first order` give the same gradient.

Columns: MB is peak memory above idle; ms of a step.
"""

from collections.abc import Sequence

from measuring import Row, alone, arguments, measure, report

LEVERS = {  # inner steps, words
    "none": (1, []),
    "none, 5 inner steps": (5, []),
    "checkpoint_inner": (5, ["algorithm.checkpoint_inner=true"]),
    "task_chunk=1": (5, ["algorithm.task_chunk=1"]),
    "task_chunk=1, checkpoint_inner": (5, ["algorithm.task_chunk=1", "algorithm.checkpoint_inner=true"]),
    "task_chunk=1, first order": (5, ["algorithm.task_chunk=1", "algorithm.first_order=true"]),
}


def step(lever: str, device: str, quick: bool) -> Row:
    from ours import built, noise_images

    from fewshot.streams import stream

    steps, words = LEVERS[lever]
    cuda = device.startswith("cuda")
    tasks, queries, widths = (4, 15, [64, 160, 320, 640]) if cuda else (2, 3, [16, 40, 80, 160])
    side, widths = (16, [4, 4, 4, 4]) if quick else (84, widths)
    made = built(["algorithm=maml", "backbone=resnet12", "backbone.dropout=0", "backbone.dropblock=0", *words,
                  f"backbone.widths={widths}".replace(" ", ""),
                  f"algorithm.stream.tasks={tasks}", "train_ways=5", "train_shots=1", f"train_queries={queries}",
                  f"algorithm.inner_steps={steps}", f"device={device}", "precision=fp32"],
                 size=side, channels=3)  # fmt: skip
    images = noise_images(8, 20, side, channels=3).on(made.machine.device)
    batch = stream(made.algorithm.stream, images, "train", seed=0, within_groups=False,
                   device=made.machine.device).batch(0)  # fmt: skip
    found = measure(lambda: made.step(batch, step=0, rate=1.0), device, quick=quick or not cuda)
    return {"lever": lever, "inner steps": steps, "channels": widths[0], "tasks": tasks, "queries": queries,
            "MB": found.mb, "ms": found.ms, "others %": found.others}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    rows: list[Row] = []
    for lever in LEVERS:
        rows.append(alone(args.quick, step, lever, args.device, args.quick))
        print(rows[-1], flush=True)
    report("memory", args, rows)


if __name__ == "__main__":
    main()
