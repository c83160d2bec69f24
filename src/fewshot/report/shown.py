"""The few test episodes that a run keeps whole, so that pictures can be drawn from its folder alone. Layer 5."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fewshot.algorithms.base import Algorithm, class_means
from fewshot.engine.runtime import autocast
from fewshot.evaluation import Evaluation
from fewshot.sampler import EpisodeSampler

PER_CLASS = 5  # support images, and queries, that are kept of each class
SIDE = 84  # pixels, larger images are averaged down: a picture is a look, not the data


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One episode of N ways, K support images and Q queries per class, rows class-major; D is the embedding's width."""

    episode: int  # its number in the test stream
    accuracy: float  # percent of all its queries, also of those that are not kept
    names: np.ndarray  # [N] str
    support_x: np.ndarray  # [N*K, C, H, W] uint8
    query_x: np.ndarray  # [N*Q, C, H, W] uint8
    predicted: np.ndarray  # [N*Q] int64, the label that each query was given
    support_z: np.ndarray  # [N*K, D] float32
    query_z: np.ndarray  # [N*Q, D] float32
    means: np.ndarray  # [N, D] float32, class means of all support embeddings: the prototypes

    @property
    def query_y(self) -> np.ndarray:
        """[N*Q] int64."""
        return np.arange(len(self.names)).repeat(len(self.query_x) // len(self.names))

    @property
    def support_y(self) -> np.ndarray:
        """[N*K] int64."""
        return np.arange(len(self.names)).repeat(len(self.support_x) // len(self.names))

    @property
    def right(self) -> np.ndarray:
        """[N*Q] bool."""
        return self.predicted == self.query_y

    @classmethod
    def take(
        cls, algorithm: Algorithm, sampler: EpisodeSampler, names: Sequence[str], *, episode: int,
        dtype: torch.dtype | None = None,
    ) -> Self:  # fmt: skip
        """Adapt to one episode of the stream once more, and keep what can be looked at."""
        batch = sampler.sample(episode, 1)
        was_training = algorithm.training
        algorithm.eval()
        with torch.no_grad(), autocast(sampler.source.device, dtype):
            state = algorithm.adapt(batch.support_x, batch.support_y, ways=batch.ways)
            predicted = algorithm.predict(state, batch.query_x).argmax(-1)
            support_z = algorithm.features(state, batch.support_x).float()
            query_z = algorithm.features(state, batch.query_x).float()
        algorithm.train(was_training)
        means = class_means(support_z, batch.support_y, batch.ways)

        def kept(rows: Tensor) -> np.ndarray:
            of_class = rows[0].unflatten(0, (batch.ways, -1))[:, :PER_CLASS]
            return of_class.flatten(0, 1).cpu().numpy()

        return cls(
            episode=episode,
            accuracy=(predicted == batch.query_y).double().mean().item() * 100,
            names=np.array([names[c] for c in batch.classes[0].tolist()]),
            support_x=_pictures(kept(batch.support_x)), query_x=_pictures(kept(batch.query_x)),
            predicted=kept(predicted), support_z=kept(support_z), query_z=kept(query_z), means=means[0].cpu().numpy(),
        )  # fmt: skip


def shown_episodes(done: Evaluation) -> list[int]:
    """Which episodes of a test are kept: the first, and the one with the lowest accuracy (the first such)."""
    return sorted({0, int(done.accuracy.argmin())})


def save(path: Path, episodes: Sequence[Shown]) -> None:
    """As arrays `<number>/<field>` of one compressed npz."""
    arrays = {f"{i}/{f.name}": getattr(shown, f.name) for i, shown in enumerate(episodes) for f in fields(shown)}
    np.savez_compressed(path, **arrays)


def load(path: Path) -> list[Shown]:
    """What `save` stored; nothing where a run kept no episodes (it is older, or its algorithm has no embedding)."""
    return list(_load(path)) if path.exists() else []


def _load(path: Path) -> Iterator[Shown]:
    with np.load(path) as arrays:
        for i in sorted({int(name.split("/")[0]) for name in arrays}):
            values = {f.name: arrays[f"{i}/{f.name}"] for f in fields(Shown)}
            yield Shown(**values | {"episode": int(values["episode"]), "accuracy": float(values["accuracy"])})


def _pictures(x: np.ndarray) -> np.ndarray:
    """[M, C, H, W] float32 in [0, 1] -> uint8 of at most SIDE pixels a side."""
    images = torch.from_numpy(x)
    if (longest := max(images.shape[-2:])) > SIDE:
        images = interpolate(images, scale_factor=SIDE / longest, mode="area")
    return (images * 255).round().to(torch.uint8).numpy()
