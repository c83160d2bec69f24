"""Test episodes per second: 1000 five-way one-shot episodes, against one episode at a time.

    python scripts/bench/episodes.py [--quick] [--json docs/results/bench_episodes.json] [--device cuda]

Accuracy is measured as a run measures it at its end (fewshot.evaluation.evaluate on Omniglot's test characters in
batches of evaluation.tasks episodes, MAML after each inner step as well), with Conv4-64 of random weights: a trained
network takes the same time. The other side is a plain loop over 100 of the same kind of episodes in plain PyTorch,
the network in evaluation mode for ProtoNet, and for MAML with a prediction after each of its three inner steps.

Columns: loop / ours is the ratio of times per episode; s is what 1000 episodes take us; then episodes per second.
"""

import time
from collections.abc import Sequence
from typing import Any

import maml
import torch
import torch.nn.functional as F
from measuring import Row, alone, arguments, report
from plain import Shape, conv4, placed, random_tasks, with_head

STEPS = 3  # MAML's inner steps at test


def ours(algorithm: str, shape: Shape, episodes: int, quick: bool) -> float:
    """Seconds."""
    from ours import built, noise_images, words

    from fewshot.assemble import load_images
    from fewshot.evaluation import evaluate
    from fewshot.sampler import EpisodeSampler

    more = [f"algorithm.eval_inner_steps={STEPS}"] if algorithm == "maml" else []
    made = built(
        [f"algorithm={algorithm}", "dataset=omniglot", "dataset.rotations=none", *words(shape), *more], size=shape.size
    )
    images = noise_images(20, 20, shape.size) if quick else load_images(made.config)
    sampler = EpisodeSampler(
        images.on(made.machine.device), "train" if quick else "test", ways=shape.ways, shots=shape.shots,
        queries=shape.queries, seed=0, device=made.machine.device,
    )  # fmt: skip
    options: Any = {"tasks": made.config["evaluation"]["tasks"], "dtype": made.machine.dtype, "every_step": True}
    evaluate(made.algorithm, sampler, episodes=min(episodes, 40), **options)
    return evaluate(made.algorithm, sampler, episodes=episodes, **options).seconds


def loop(algorithm: str, shape: Shape, episodes: int) -> float:
    """Seconds."""
    shape = shape._replace(tasks=episodes)
    batch = random_tasks(shape)
    net = conv4(shape, running=algorithm == "protonet")
    net = placed(with_head(net, shape) if algorithm == "maml" else net, shape).eval()
    one = maml_episode if algorithm == "maml" else protonet_episode
    begin = time.perf_counter()
    for task in zip(*batch, strict=True):
        one(net, shape, *task).item()
    return time.perf_counter() - begin


def protonet_episode(net: Any, shape: Shape, support_x: Any, support_y: Any, query_x: Any, query_y: Any) -> Any:
    """Accuracy of one episode."""
    with torch.no_grad():
        prototypes = net(support_x).view(shape.ways, shape.shots, -1).mean(1)
        return (torch.cdist(net(query_x), prototypes).argmin(1) == query_y).float().mean()


def maml_episode(net: Any, shape: Shape, support_x: Any, support_y: Any, query_x: Any, query_y: Any) -> Any:
    """The same, summed over the inner steps."""
    fast, total = list(net.parameters()), torch.zeros(())
    for step in range(STEPS + 1):
        with torch.no_grad():
            total = total + (maml.logits(fast, query_x, shape).argmax(1) == query_y).float().mean()
        if step < STEPS:
            grads = torch.autograd.grad(F.cross_entropy(maml.logits(fast, support_x, shape), support_y), fast)
            fast = [(w - maml.INNER_LR * g).detach().requires_grad_() for w, g in zip(fast, grads, strict=True)]
    return total


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    kinds = [("protonet", "pool", 1), ("protonet", "pool", 5), ("protonet", "pool", 15),
             ("maml", "stride", 1), ("maml", "stride", 15), ("maml", "pool", 1)]  # fmt: skip
    cases = [(algorithm, Shape(network, queries=queries)) for algorithm, network, queries in kinds]
    episodes, looped = (4, 2) if args.quick else (1000, 100)
    rows: list[Row] = []
    for algorithm, shape in cases:
        shape = shape._replace(device=args.device, **({"size": 16, "filters": 4} if args.quick else {}))
        seconds = alone(args.quick, ours, algorithm, shape, episodes, args.quick)
        theirs = alone(args.quick, loop, algorithm, shape, looped)
        rows.append({
            "loop / ours": theirs / looped / (seconds / episodes), "algorithm": algorithm,
            "network": shape.downsampling, "queries": shape.queries, "s": seconds,
            "ours per s": episodes / seconds, "loop per s": looped / theirs,
        })  # fmt: skip
        print(rows[-1], flush=True)
    report("episodes", args, rows, episodes=episodes)


if __name__ == "__main__":
    main()
