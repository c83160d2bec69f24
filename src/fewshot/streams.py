"""What a training draws from: batch k of an endless stream, a pure function of (seed, split, k). Layer 2."""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from fewshot.datasets.base import ImageSet
from fewshot.episode import Batch, Episode, Episodes, Minibatch, Minibatches, Stream
from fewshot.errors import InputError
from fewshot.ops import random
from fewshot.sampler import Drawn, EpisodeSampler
from fewshot.source import Source, pipeline
from fewshot.transforms import Transform

BLOCK = 64  # batches whose indices are drawn at once, so that small tensor operations do not add up


class BatchStream(Protocol):
    """What the trainer draws from: batch k of an endless, addressable stream."""

    def batch(self, k: int) -> Batch: ...


class EpisodeStream:
    """Batch k of a training run: `tasks` consecutive episodes of a sampler, or one of `parts` equal parts of them.

    Every part draws all indices (some microseconds) and gathers its own images.
    """

    def __init__(self, sampler: EpisodeSampler, tasks: int, *, part: int = 0, parts: int = 1) -> None:
        self.sampler, self.tasks = sampler, tasks
        self._part = _share(tasks, part, parts, "algorithm.stream.tasks")
        self._block, self._drawn = -1, Drawn(*[torch.empty(0)] * 6)

    def batch(self, k: int) -> Episode:
        batch, source = self.sampler.episodes(self._of_batch(k)), self.sampler.source
        if source.reads_ahead:
            coming = self._of_batch(k + 1)
            source.expect(coming.support, coming.query)
        return batch

    def _of_batch(self, k: int) -> Drawn:
        block, within = divmod(k, BLOCK)
        if block != self._block:
            drawn = self.sampler.draw(block * BLOCK * self.tasks, BLOCK * self.tasks)
            place = self.sampler.source.pixels.device  # rows go to the images, once per block
            self._drawn = drawn._replace(support=drawn.support.to(place), query=drawn.query.to(place))
            self._block = block
        first = within * self.tasks
        rows = slice(first + self._part.start, first + self._part.stop)
        return Drawn(*[t[rows] for t in self._drawn])


class MinibatchStream:
    """Mini-batches over all images of a split: every epoch is a new permutation, the ragged end is dropped.

    Of `parts` equal parts of each batch this stream gives the one.
    """

    def __init__(
        self, images: ImageSet, split: str, *, batch_size: int, seed: int, transforms: Iterable[Transform] = (),
        device: torch.device | None = None, part: int = 0, parts: int = 1,
    ) -> None:  # fmt: skip
        self.transforms = pipeline(images, transforms)
        self.source = Source(images, split, device or torch.device("cpu"))
        sizes = self.source.sizes
        self._class = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
        first = sizes.cumsum(0) - sizes
        within = torch.arange(len(self._class), device=sizes.device) - first[self._class]
        self._rows = self.source.starts[self._class] + within
        place = self.source.pixels.device
        self._class, self._rows = self._class.to(place), self._rows.to(place)
        if not 1 <= batch_size <= len(self._rows):
            raise InputError(
                f"batch_size={batch_size} but split '{split}' of '{images.name}' has {len(self._rows)} images; "
                f"choose 1 to {len(self._rows)}"
            )
        self.batch_size, self.per_epoch = batch_size, len(self._rows) // batch_size
        self._key = random.key(seed, split, "minibatches")
        self._epoch, self._order = -1, torch.empty(0)
        self._part = _share(batch_size, part, parts, "algorithm.stream.batch_size")

    def batch(self, k: int) -> Minibatch:
        place = torch.arange(self._part.start, self._part.stop, device=self.source.device)
        key = random.mix(random.mix(self._key, place.new_full((), -k - 1)), place)

        def keys(transform: Transform) -> Tensor:  # in QuarterTurn's lane the key itself: published results drew so
            return key if transform.lane == -1 else random.mix(key, key.new_full((), -2 - transform.lane))

        chosen = self._of_batch(k)
        images = self.source.gather(self._rows[chosen], self.transforms, keys)
        labels = self._class[chosen].to(self.source.device)
        if self.source.reads_ahead:
            self.source.expect(self._rows[self._of_batch(k + 1)])
        return Minibatch(images, labels)

    def _of_batch(self, k: int) -> Tensor:
        """Which images of the split."""
        epoch, within = divmod(k, self.per_epoch)
        if epoch != self._epoch:
            counter = torch.arange(len(self._rows), device=self._rows.device)
            key = random.mix(self._key, counter.new_full((), epoch))
            self._order, self._epoch = random.mix(key, counter).argsort(), epoch
        first = within * self.batch_size
        return self._order[first + self._part.start : first + self._part.stop]


def _share(size: int, part: int, parts: int, key: str) -> slice:
    """Rows of a batch of `size` that belong to one of `parts` processes."""
    if size % parts:
        raise InputError(
            f"{key}={size} cannot be shared out evenly among {parts} processes; "
            f"use a multiple of {parts}, or as many processes as divide {size}"
        )
    own = size // parts
    return slice(part * own, (part + 1) * own)


def stream(
    requested: Stream, images: ImageSet, split: str, *, seed: int, within_groups: bool, device: torch.device,
    transforms: Iterable[Transform] = (), part: int = 0, parts: int = 1,
) -> BatchStream:  # fmt: skip
    """The training stream that an algorithm asks for by its `stream`, or one of `parts` equal parts of it."""
    if isinstance(requested, Minibatches):
        return MinibatchStream(
            images, split, batch_size=requested.batch_size, seed=seed, transforms=transforms, device=device,
            part=part, parts=parts,
        )  # fmt: skip
    assert isinstance(requested, Episodes)
    if requested.tasks < 1:
        raise InputError(f"tasks={requested.tasks} is below 1; a step needs at least one episode")
    sampler = EpisodeSampler(
        images, split, ways=requested.ways, shots=requested.shots, queries=requested.queries, seed=seed,
        within_groups=within_groups, transforms=transforms, device=device,
    )  # fmt: skip
    return EpisodeStream(sampler, requested.tasks, part=part, parts=parts)
