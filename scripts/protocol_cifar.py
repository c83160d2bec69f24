"""What the protocol makes of one training on CIFAR-FS: the table of docs/protocols.md that no paper has.

    python scripts/protocol_cifar.py RUN [--episodes 10000] [--json docs/results/protocol_cifar.json]

RUN: folder of a run of experiment=protonet/cifar_fs_conv4_5w1s, or any other with backbone=conv4 on CIFAR-FS. Where its
data are no longer, $FEWSHOT_DATA and $FEWSHOT_CACHE say where they are now.

    queries          of each class: 15, or 47 as R2D2 has it (240 images an episode)
    support copies   none: the image as it is; 5: five changed copies in its place (augment=cifar), as RFS has it
    readout          flattened: all positions of the last map, 256 numbers; averaged: their mean, 64
    features         as they are; of length 1 (L2); with the training images' mean subtracted before (CL2N)
    nearest mean     squared distances to class means
    cosine           cosines to class means
    logistic         logistic regression, C = 1

The images of the test and training classes are embedded once, copies in each episode; the first episodes are compared
with those of `fewshot evaluate`.
"""

import argparse
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot import assemble
from fewshot.algorithms.embedding_head import prototypes
from fewshot.algorithms.logistic_regression import fit_logistic, with_ones
from fewshot.backbones.conv4 import Conv4
from fewshot.cli.compose import compose
from fewshot.datasets.base import ImageSet
from fewshot.embedded import EmbeddedEpisodes
from fewshot.engine.durable import replace
from fewshot.engine.machine import Machine
from fewshot.engine.progress import Progress
from fewshot.evaluation import evaluate
from fewshot.metrics import episode_accuracy, mean_ci95
from fewshot.ops.similarities import cosines, one_hot, squared_distances
from fewshot.sampler import EpisodeSampler
from fewshot.trained import Trained, restore

TASKS = 100  # episodes at a time
COMPARED = 100  # episodes
COPIES = 5
Logits = Callable[[Tensor, Tensor, Tensor], Tensor]  # support [T, M, D], onehot [T, M, N], query [T, P, D]
HEADS: dict[str, Logits] = {
    "nearest mean": lambda s, y, q: -squared_distances(q, prototypes(s, y)),
    "cosine": lambda s, y, q: cosines(q, prototypes(s, y)),
    "logistic": lambda s, y, q: with_ones(q) @ fit_logistic(s, y, 1.0),
}
FEATURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of embeddings and the training images' mean
    "as they are": lambda z, mean: z,
    "L2": lambda z, mean: normalize(z, dim=-1),
    "CL2N": lambda z, mean: normalize(z - mean, dim=-1),
}


def embed(backbone: nn.Module, images: Tensor) -> Tensor:
    """[B, 3, H, W] in [0, 1] -> flattened maps [B, 256]."""
    with torch.no_grad():
        return torch.cat([backbone(part.contiguous(memory_format=torch.channels_last)) for part in images.split(500)])


def embed_split(backbone: nn.Module, sampler: EpisodeSampler) -> Tensor:
    """The images of the sampler's classes, class by class: [images, 256]."""
    starts, sizes = sampler.source.starts.tolist(), sampler.source.sizes.tolist()
    rows = torch.cat([torch.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)])
    return torch.cat([embed(backbone, sampler.images(part)) for part in rows.split(500)])


def averaged(z: Tensor, positions: int) -> Tensor:
    """Flattened maps [..., channels * positions] -> [..., channels]."""
    return z.unflatten(-1, (-1, positions)).mean(-1)


def sampler_of(run: Trained, images: ImageSet, split: str, queries: int, copies: int) -> EpisodeSampler:
    """The episodes that `fewshot evaluate run=RUN queries=... augment=cifar augment.support_copies=...` draws."""
    augment = {"augment": compose("config", ["augment=cifar"]).config["augment"] | {"support_copies": copies}}
    config = run.config | {"queries": queries} | (augment if copies else {})
    return assemble.episode_sampler(config, images, split, torch.device("cpu"))


def episodes(
    run: Trained, sampler: EpisodeSampler, of_split: Tensor, count: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Some episodes at a time: support [T, M, 256] and labels [T, M], query [T, P, 256] and labels [T, P]."""
    source, backbone = EmbeddedEpisodes(sampler, of_split), run.algorithm.backbone
    assert isinstance(backbone, nn.Module)
    for first in range(0, count, TASKS):
        tasks = min(TASKS, count - first)
        batch = source.sample(first, tasks)
        support, y = batch.support_x, batch.support_y
        if sampler.support_copies:
            drawn = sampler.draw(first, tasks)
            one = drawn._replace(query=drawn.query[:, :1], query_y=drawn.query_y[:, :1], number=drawn.number[:, :1])
            changed = sampler.episodes(one)
            y, support = changed.support_y, embed(backbone, changed.support_x.flatten(0, 1)).unflatten(0, (tasks, -1))
        yield support, y, batch.query_x, batch.query_y


def rows(run: Trained, images: ImageSet, count: int) -> list[dict[str, Any]]:
    """The table; accuracies in percent."""
    backbone = run.algorithm.backbone
    assert isinstance(backbone, nn.Module)
    (conv4,) = (module for module in backbone.modules() if isinstance(module, Conv4))
    positions = conv4.map_shape[1] * conv4.map_shape[2]
    mean = embed_split(backbone, sampler_of(run, images, "train", 15, 0)).double().mean(0)
    readouts: dict[str, Callable[[Tensor], Tensor]] = {
        "flattened": lambda z: z.double(), "averaged": lambda z: averaged(z.double(), positions),
    }  # fmt: skip
    of_test = embed_split(backbone, sampler_of(run, images, "test", 15, 0))
    found: list[dict[str, Any]] = []
    with Progress("episodes", 4 * count) as work:
        for queries, copies in itertools.product((15, 47), (0, COPIES)):
            sampler = sampler_of(run, images, "test", queries, copies)
            accuracy: dict[tuple[str, str, str], list[Tensor]] = {}
            for support, y, query, query_y in episodes(run, sampler, of_test, count):
                onehot = one_hot(y, sampler.ways, torch.float64)
                for (readout, read), (kind, change) in itertools.product(readouts.items(), FEATURES.items()):
                    s, q = (change(read(z), read(mean)) for z in (support, query))
                    for head, logits in HEADS.items():
                        part = episode_accuracy(logits(s, onehot, q), query_y)
                        accuracy.setdefault((readout, kind, head), []).append(part)
                work.advance(len(query_y))
            if (queries, copies) == (15, 0):
                compare(run, sampler, torch.cat(accuracy["flattened", "as they are", "nearest mean"]))
            for readout, kind in itertools.product(readouts, FEATURES):
                means = {head: mean_ci95(torch.cat(accuracy[readout, kind, head])) for head in HEADS}
                found.append(
                    {"queries": queries, "support copies": copies or "none", "readout": readout, "features": kind}
                    | {head: f"{m.value:.2f} ± {m.ci95:.2f}" for head, m in means.items()}
                )
    return found


def compare(run: Trained, sampler: EpisodeSampler, ours: Tensor) -> None:
    """The first episodes, as a run is tested on them."""
    theirs = evaluate(run.algorithm, sampler, episodes=COMPARED, tasks=20).accuracy[: len(ours)]
    worst = (theirs - ours[: len(theirs)]).abs().mean().item()
    print(f"the first {COMPARED} episodes differ from the evaluation's by {worst:.3f} points in the mean")
    if worst > 0.05:  # a query that lies between two classes may go either way by rounding
        raise SystemExit("these are not the episodes, or not the embeddings, of the evaluation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--episodes", type=int, default=10000)
    parser.add_argument("--checkpoint", help="best, last or a step; default: the one that was tested")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    Machine.start("cpu", None)
    run = restore(args.run, args.checkpoint)
    folders = {"data_dir": os.environ.get("FEWSHOT_DATA"), "cache_dir": os.environ.get("FEWSHOT_CACHE")}
    run.config["dataset"] |= {key: folder for key, folder in folders.items() if folder}
    table = rows(run, assemble.load_images(run.config), args.episodes)
    command = f"python scripts/protocol_cifar.py RUN --episodes {args.episodes}"
    record = {"command": command, "run": run.run.path.name, "step": run.step, "episodes": args.episodes, "rows": table}
    print("\n".join(" | ".join(map(str, row.values())) for row in [dict(zip(table[0], table[0], strict=True)), *table]))
    if args.json:
        replace(args.json, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
