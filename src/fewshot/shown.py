"""The few test episodes that a run keeps whole, so that pictures can be drawn from its folder alone. Layer 3."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fewshot import records
from fewshot.algorithms.base import Algorithm, State
from fewshot.engine.runtime import autocast
from fewshot.episode import Episode
from fewshot.errors import InputError, first_line
from fewshot.ops.similarities import class_means
from fewshot.printable import printable
from fewshot.sampler import EpisodeSampler

PER_CLASS = 5  # support images, and queries, that are kept of each class
SIDE = 84  # pixels, larger images are averaged down


@dataclass(frozen=True, kw_only=True)
class ShownEpisode:
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
    # The same before the first inner step; None where embeddings do not adapt to a task, and in older runs.
    support_z0: np.ndarray | None = None
    query_z0: np.ndarray | None = None
    means0: np.ndarray | None = None

    def check(self) -> None:
        """ValueError where the shapes and types are not those above."""
        ways, rows = len(self.names), (self.support_x, self.query_x)
        images = all(x.dtype == np.uint8 and x.ndim == 4 and len(x) % ways == 0 and x.size for x in rows)
        width = self.means.shape[-1:]
        embeddings = [(self.support_z, self.support_x), (self.query_z, self.query_x), (self.means, self.names)]
        before = (self.support_z0, self.query_z0, self.means0)
        embeddings += [(z, x) for z, (_, x) in zip(before, embeddings[:3], strict=True) if z is not None]
        fit = all(z.dtype == np.float32 and z.shape == (len(x), *width) for z, x in embeddings)
        labels = self.predicted.shape == (len(self.query_x),) and self.predicted.dtype == np.int64
        if not (images and fit and labels and ways and ((self.predicted >= 0) & (self.predicted < ways)).all()):
            raise ValueError("its arrays do not fit each other")

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


def adapt_and_show(
    algorithm: Algorithm, sampler: EpisodeSampler, names: Sequence[str], *, episode: int,
    dtype: torch.dtype | None = None,
) -> ShownEpisode:  # fmt: skip
    """Adapt to one episode of the test stream once more, and keep what a picture of it needs.

    names: of the data set's classes, by class id. dtype: of autocast.
    """
    batch = next(sampler.sample(episode, 1).unpadded())
    was_training = algorithm.training
    algorithm.eval()
    with torch.no_grad(), autocast(sampler.source.device, dtype):
        first, state = _first_and_last(algorithm.adaptation(batch.support_x, batch.support_y, ways=batch.ways))
        predicted = algorithm.predict(state, batch.query_x).argmax(-1)
        support_z, query_z = _features(algorithm, state, batch)
        support_z0, query_z0 = _features(algorithm, first, batch) if first is not state else (support_z, query_z)
    algorithm.train(was_training)
    means = class_means(support_z, batch.support_y, batch.ways)

    def some(rows: Tensor, y: Tensor) -> np.ndarray:
        """[1, M, ...] with labels [1, M] -> the first rows of each class."""
        return rows[0, _first_rows(y[0], batch.ways)].cpu().numpy()

    support_y, query_y = batch.support_y, batch.query_y
    before = {}
    if not torch.equal(query_z, query_z0):
        means0 = class_means(support_z0, batch.support_y, batch.ways)[0].cpu().numpy()
        before = {"support_z0": some(support_z0, support_y), "query_z0": some(query_z0, query_y), "means0": means0}
    return ShownEpisode(
        episode=episode,
        accuracy=(predicted == batch.query_y).double().mean().item() * 100,
        names=np.array([names[c] for c in batch.classes[0].tolist()]),
        support_x=_pictures(some(batch.support_x, support_y)), query_x=_pictures(some(batch.query_x, query_y)),
        predicted=some(predicted, query_y), support_z=some(support_z, support_y), query_z=some(query_z, query_y),
        means=means[0].cpu().numpy(),
        **before,
    )  # fmt: skip


def _first_rows(y: Tensor, ways: int) -> Tensor:
    """Of labels y [M] the first PER_CLASS rows of each class, as many of each: [N*k] int64.

    InputError where a class has none.
    """
    of_class = y == torch.arange(ways, device=y.device)[:, None]  # [N, M]
    fewest = min(PER_CLASS, int(of_class.sum(1).min()))
    if not fewest:
        raise InputError("the first or the hardest episode has a class without queries")
    return torch.cat([rows.nonzero()[:fewest, 0] for rows in of_class])


def _first_and_last(states: Iterable[State]) -> tuple[State, State]:
    first, last = None, None
    for number, state in enumerate(states):
        first, last = (state if number == 0 else first), state
    return first, last


def _features(algorithm: Algorithm, state: State, batch: Episode) -> tuple[Tensor, Tensor]:
    """The embeddings of support [1, N*K, D] and queries [1, N*Q, D]."""
    return algorithm.features(state, batch.support_x).float(), algorithm.features(state, batch.query_x).float()


def first_and_hardest(accuracy: Tensor) -> list[int]:
    """Which episodes of a test are kept: the first, and the one with the lowest accuracy [E] (the first such)."""
    return sorted({0, int(accuracy.argmin())})


def save(path: Path | BinaryIO, episodes: Sequence[ShownEpisode]) -> None:
    """As arrays `<number>/<field>` of one compressed npz."""
    arrays = {f"{i}/{f.name}": getattr(shown, f.name) for i, shown in enumerate(episodes) for f in fields(shown)}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    np.savez_compressed(path, **arrays)


def load(path: Path) -> list[ShownEpisode]:
    """What `save` stored; nothing where a run kept no episodes (it is older, or its algorithm has no embedding).

    InputError where the file is damaged.
    """
    return list(_load(path)) if path.exists() else []


def _load(path: Path) -> Iterator[ShownEpisode]:
    arrays = records.read_arrays(path)
    for i in sorted({name.split("/")[0] for name in arrays}):
        values = {f.name: arrays[name] for f in fields(ShownEpisode) if (name := f"{i}/{f.name}") in arrays}
        try:
            numbers = {"episode": int(values["episode"]), "accuracy": float(values["accuracy"])}
            names = np.array([printable(name) for name in values["names"].tolist()])
            shown = ShownEpisode(**values | numbers | {"names": names})
            shown.check()
        except (LookupError, TypeError, ValueError) as error:
            raise records.Damaged(path, f"episode {i}: {first_line(error)}") from error
        yield shown


def _pictures(x: np.ndarray) -> np.ndarray:
    """[M, C, H, W] float32 in [0, 1] -> uint8 of at most SIDE pixels a side."""
    images = torch.from_numpy(x)
    if (longest := max(images.shape[-2:])) > SIDE:
        images = interpolate(images, scale_factor=SIDE / longest, mode="area")
    return (images * 255).round().to(torch.uint8).numpy()
