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


ROWS = ("support", "query")  # the fields of `Drawn` that are rows of the image array
OTHERS = tuple(name for name in Drawn._fields if name not in ROWS)
Indices = tuple[Tensor, ...]  # of a block of batches, int64


class BlockStream:
    """A stream whose indices are drawn for `block` batches at once, so that small tensor operations do not add up.

    Both halves can depend on tensors alone, so that a CUDA graph can hold them (`outer_step.DrawnStep`).
    """

    block: int
    source: Source  # of the images
    sizes_drawn: str | None = None  # per task | per step, where those of its episodes are
    _number = -1  # of the block at hand
    _drawn: Indices = ()

    def draw(self, number: Tensor) -> Indices:
        """The indices of block `number`, an int64 scalar: of the same shapes for every block, `rows` of the first."""
        raise NotImplementedError

    def rows(self, drawn: Indices, k: int | Tensor) -> Tensor:
        """The rows of the images of batch k (a number, or int64 [1]) of the block that `drawn` is of."""
        raise NotImplementedError

    def gather(self, drawn: Indices, k: int | Tensor) -> Batch:
        """Batch k of that block."""
        raise NotImplementedError

    def batch(self, k: int) -> Batch:
        batch = self.gather(self._of_batch(k), k)
        if self.source.reads_ahead:
            self.source.expect(self.rows(self._of_batch(k + 1), k + 1))
        return batch

    def _of_batch(self, k: int) -> Indices:
        """The indices of its block; rows go to where the images are, once per block."""
        if (number := k // self.block) != self._number:
            rows, *rest = self.draw(torch.full((), number, device=self.source.device))
            self._drawn, self._number = (rows.to(self.source.pixels.device), *rest), number
        return self._drawn


class EpisodeStream(BlockStream):
    """Batch k of a training run: `tasks` consecutive episodes of a sampler, or one of `parts` equal parts of them.

    Every part draws all indices (some microseconds) and gathers its own images.
    """

    def __init__(self, sampler: EpisodeSampler, tasks: int, *, part: int = 0, parts: int = 1) -> None:
        self.sampler, self.tasks, self.block, self.source = sampler, tasks, BLOCK, sampler.source
        self.sizes_drawn = "per task" if sampler.padded else None
        self._part = _share(tasks, part, parts, "algorithm.stream.tasks")
        self._like: dict[str, tuple[torch.Size, torch.dtype]] = {}  # of a batch's `Drawn`

    def draw(self, number: Tensor) -> Indices:
        """What each batch's `Drawn` holds, in one row of each of two tensors [block, numbers]."""
        drawn = self.sampler.draw(number * (self.block * self.tasks), self.block * self.tasks)
        own = {n: t.unflatten(0, (self.block, -1))[:, self._part] for n, t in drawn._asdict().items()}
        self._like = {n: (t.shape[1:], t.dtype) for n, t in own.items()}
        return tuple(torch.cat([own[n].flatten(1) for n in names], 1) for names in (ROWS, OTHERS))

    def rows(self, drawn: Indices, k: int | Tensor) -> Tensor:
        return _row(drawn[0], k % self.block)

    def gather(self, drawn: Indices, k: int | Tensor) -> Episode:
        fields: dict[str, Tensor] = {}
        for row, names in ((self.rows(drawn, k), ROWS), (_row(drawn[1], k % self.block), OTHERS)):
            parts = row.split([self._like[n][0].numel() for n in names])
            for name, part in zip(names, parts, strict=True):
                shape, dtype = self._like[name]
                fields[name] = part.view(shape).to(dtype)
        return self.sampler.episodes(Drawn(**fields))


class SizedStream(EpisodeStream):
    """The ways, shots and queries are drawn once for each batch, and all its episodes have them: nothing is padded.

    Batch k is that of an `EpisodeStream` of the size `size(k)`; its shape is another one than that of batch k + 1.
    """

    def __init__(self, sampler: EpisodeSampler, tasks: int, *, seed: int, part: int = 0, parts: int = 1) -> None:
        super().__init__(sampler, tasks, part=part, parts=parts)
        self.block, self.sizes_drawn, self._seed, self._of_any_size = 1, "per step", seed, sampler

    def size(self, k: int) -> tuple[int, int, int]:
        """Ways, shots and queries of batch k: the same for all parts, each number equally likely."""
        drawn = self._of_any_size.sizes
        ways, shots = (
            size.low + random.key(self._seed, name, str(k)) % (size.high - size.low + 1)
            for name, size in (("ways", drawn.ways), ("shots", drawn.shots))
        )
        return ways, shots, drawn.rest_of - shots if drawn.rest_of else drawn.queries.low

    def _of_batch(self, k: int) -> Indices:
        self.sampler = self._of_any_size.of_size(*self.size(k))
        return super()._of_batch(k)


class MinibatchStream(BlockStream):
    """Mini-batches over all images of a split: every epoch (a block) is a new permutation, the ragged end is dropped.

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
        self.batch_size, self.block = batch_size, len(self._rows) // batch_size
        self._key = random.key(seed, split, "minibatches")
        self._part = _share(batch_size, part, parts, "algorithm.stream.batch_size")
        self._place = torch.arange(self._part.start, self._part.stop, device=self.source.device)

    def draw(self, number: Tensor) -> Indices:
        """A permutation of all images, the ragged end left out: [block, batch_size]."""
        counter = torch.arange(len(self._rows), device=number.device)
        order = random.mix(random.mix(self._key, number), counter).argsort()
        return (order[: self.block * self.batch_size].view(self.block, -1)[:, self._part],)

    def rows(self, drawn: Indices, k: int | Tensor) -> Tensor:
        return self._rows[_row(drawn[0], k % self.block)]

    def gather(self, drawn: Indices, k: int | Tensor) -> Minibatch:
        of_batch = -k - 1 if isinstance(k, Tensor) else self._place.new_full((), -k - 1)
        key = random.mix(random.mix(self._key, of_batch), self._place)

        def keys(transform: Transform) -> Tensor:  # in QuarterTurn's lane the key itself: published results drew so
            return key if transform.lane == -1 else random.mix(key, key.new_full((), -2 - transform.lane))

        images = self.source.gather(self.rows(drawn, k), self.transforms, keys)
        return Minibatch(images, self._class[_row(drawn[0], k % self.block)].to(self.source.device))


def _row(t: Tensor, place: int | Tensor) -> Tensor:
    """t[place], for a number or int64 [1], which a GPU need not tell."""
    return t.index_select(0, place)[0] if isinstance(place, Tensor) else t[place]


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
    transforms: Iterable[Transform] = (), part: int = 0, parts: int = 1, padded: bool = True,
) -> BlockStream:  # fmt: skip
    """The training stream that an algorithm asks for by its `stream`, or one of `parts` equal parts of it.

    padded: where sizes are drawn, each episode has its own, and smaller ones are padded; false: one for each batch.
    """
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
    if sampler.padded and not padded:
        return SizedStream(sampler, requested.tasks, seed=seed, part=part, parts=parts)
    return EpisodeStream(sampler, requested.tasks, part=part, parts=parts)
