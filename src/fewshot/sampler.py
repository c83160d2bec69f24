"""From a split to batches: episodes and mini-batches as pure functions of (seed, split, k). Layer 2.

A draw is integer arithmetic on small tensors (`ops.random`), a batch is one gather from the image array and
one conversion to float: no per-image work in Python. Episode k is the same whatever batch it is drawn in.
"""

import logging
from typing import Protocol

import torch
from torch import Tensor

from fewshot.datasets.base import ImageSet
from fewshot.episode import Batch, Episode, Episodes, Minibatch, Minibatches, Stream
from fewshot.errors import InputError
from fewshot.ops import random

log = logging.getLogger("fewshot")
BLOCK = 64  # batches whose indices are drawn at once, so that small tensor operations do not add up


class BatchStream(Protocol):
    """What the trainer draws from: batch k of an endless, addressable stream."""

    def batch(self, k: int) -> Batch: ...


class _Source:
    """The images of one split on one device, ready to gather.

    shift: a row may also be one of a moved copy of the array; (2*shift + 1)**2 of them lie one after the other.
    """

    def __init__(self, images: ImageSet, split: str, device: torch.device, shift: int = 0) -> None:
        most = min(images.image_shape[1:]) - 1
        if not 0 <= shift <= most:
            raise InputError(f"train_shift={shift} for the images of '{images.name}'; it can be 0 to {most} pixels")
        self.classes = torch.tensor(list(images.split(split)))
        self.starts = images.offsets[:-1][self.classes].to(device)
        self.sizes = (images.offsets[1:] - images.offsets[:-1])[self.classes].to(device)
        self.turns, self.turn_stride = images.turns, int(images.offsets[-1])
        self.pixels = images.images  # on the device already, where they fit (`ImageSet.on`)
        self.shift, self.device = shift, device

    def moved(self, rows: Tensor, keys: Tensor) -> Tensor:
        """Rows of the same images, each moved at random by its key [...]."""
        return rows + random.below(keys, (2 * self.shift + 1) ** 2) * len(self.pixels)

    def gather(self, rows: Tensor) -> Tensor:
        """Image rows [...] -> float32 images [..., C, H, W] in [0, 1]."""
        row = rows.flatten()
        flat = self.pixels.index_select(0, (row % len(self.pixels)).to(self.pixels.device)).to(self.device)
        if self.shift:
            move, side = row // len(self.pixels), 2 * self.shift + 1
            flat = _move(flat, move // side - self.shift, move % side - self.shift)
        return flat.to(torch.float32).div_(255).view(*rows.shape, *self.pixels.shape[1:])


def _move(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """[B, C, H, W], each moved by its number of pixels [B]; what comes in is the edge, repeated."""
    height, width = images.shape[-2:]
    y = (torch.arange(height, device=down.device) - down[:, None]).clamp(0, height - 1)  # [B, H]
    x = (torch.arange(width, device=down.device) - right[:, None]).clamp(0, width - 1)
    images = images.gather(2, y[:, None, :, None].expand_as(images))
    return images.gather(3, x[:, None, None, :].expand_as(images))


class EpisodeSampler:
    """N-way K-shot Q-query episodes of one split.

    shift: every image of an episode is moved at random by up to so many pixels.
    within_groups: all classes of an episode come from one group (an alphabet), drawn uniformly among the
    groups with at least `ways` classes; `skipped_groups` counts the others.
    Raises InputError where the split cannot give such episodes.
    """

    def __init__(
        self,
        images: ImageSet,
        split: str,
        *,
        ways: int,
        shots: int,
        queries: int,
        seed: int,
        within_groups: bool = False,
        shift: int = 0,
        device: torch.device | None = None,
    ) -> None:
        for name, value, least in (("ways", ways, 2), ("shots", shots, 1), ("queries", queries, 1)):
            if value < least:
                raise InputError(f"{name}={value} is below {least}; set {name} to at least {least}")
        self.ways, self.shots, self.queries = ways, shots, queries
        self.source = _Source(images, split, device or torch.device("cpu"), shift)
        self._key = random.key(seed, split, "episodes")
        classes = self.source.classes
        if ways > len(classes):
            raise InputError(
                f"ways={ways} but split '{split}' of '{images.name}' has {len(classes)} classes; "
                + ("lower ways" if len(classes) > 1 else "it needs two at least; choose another split or more data")
            )
        small = classes[self.source.sizes.cpu() < shots + queries].tolist()
        if small:
            named = ", ".join(images.class_names[c] for c in small[:5])
            raise InputError(
                f"{len(small)} classes of split '{split}' of '{images.name}' have fewer than "
                f"shots+queries={shots + queries} images ({named}{', ...' if len(small) > 5 else ''}); "
                f"lower shots or queries"
            )
        self._group_classes(images, split, within_groups)

    def _group_classes(self, images: ImageSet, split: str, within_groups: bool) -> None:
        """Sort the classes by group; `_first` and `_count` delimit the groups that can be drawn from."""
        classes, device = self.source.classes, self.source.device
        members: dict[str, list[int]] = {}
        for position, c in enumerate(classes.tolist()):
            members.setdefault(images.groups[c] if within_groups else "", []).append(position)
        usable = [m for m in members.values() if len(m) >= self.ways]
        self.skipped_groups = len(members) - len(usable)
        if not usable:
            largest = max(len(m) for m in members.values())
            raise InputError(
                f"ways={self.ways} but the largest group in split '{split}' of '{images.name}' has "
                f"{largest} classes; lower ways or set within_groups=false"
            )
        if self.skipped_groups:
            log.warning(
                "split '%s' of '%s': %d of %d groups left out, with fewer than ways=%d classes",
                split, images.name, self.skipped_groups, len(members), self.ways,
            )  # fmt: skip
        self._order = torch.tensor([p for m in usable for p in m], device=device)
        self._count = torch.tensor([len(m) for m in usable], device=device)
        self._first = self._count.cumsum(0) - self._count
        self._ids = classes.to(device)

    def draw(self, first: int, tasks: int) -> tuple[Tensor, Tensor]:
        """Indices of episodes first..first+tasks-1: positions of classes [T, N], image rows [T, N, K+Q]."""
        key = random.mix(self._key, torch.arange(first, first + tasks, device=self.source.device))  # [T]
        group = random.below(random.mix(key, key.new_full((), 0)), len(self._count))
        member = random.distinct(random.mix(key, key.new_full((), 1)), self._count[group], self.ways)
        position = self._order[self._first[group][:, None] + member]  # [T, N]
        lane = torch.arange(2, 2 + self.ways, device=key.device)
        per_class = random.mix(key[:, None], lane)  # [T, N]
        drawing = random.distinct(per_class, self.source.sizes[position], self.shots + self.queries)
        rows = self.source.starts[position][..., None] + drawing
        if self.source.turns > 1:  # one rotation per class and task
            turn = random.below(random.mix(per_class, key.new_full((), -1)), self.source.turns)
            rows = rows + (turn * self.source.turn_stride)[..., None]
        if self.source.shift:
            image = torch.arange(self.shots + self.queries, device=key.device)
            rows = self.source.moved(rows, random.mix(random.mix(per_class, key.new_full((), -2))[..., None], image))
        return position, rows

    def episodes(self, position: Tensor, rows: Tensor) -> Episode:
        """Gather what `draw` chose."""
        tasks, k = len(rows), self.shots
        labels = torch.arange(self.ways, device=rows.device)
        return Episode(
            support_x=self.source.gather(rows[..., :k].reshape(tasks, -1)),
            support_y=labels.repeat_interleave(k).repeat(tasks, 1),
            query_x=self.source.gather(rows[..., k:].reshape(tasks, -1)),
            query_y=labels.repeat_interleave(self.queries).repeat(tasks, 1),
            classes=self._ids[position],
        )

    def sample(self, first: int, tasks: int) -> Episode:
        """Episodes first..first+tasks-1 of this stream."""
        return self.episodes(*self.draw(first, tasks))


class EpisodeStream:
    """Batch k of a training run: `tasks` consecutive episodes of a sampler, or one of `parts` equal parts of them.

    Every part draws all indices (some microseconds) and gathers its own images.
    """

    def __init__(self, sampler: EpisodeSampler, tasks: int, *, part: int = 0, parts: int = 1) -> None:
        self.sampler, self.tasks = sampler, tasks
        self._part = _share(tasks, part, parts, "algorithm.stream.tasks")
        self._block, self._drawn = -1, (torch.empty(0), torch.empty(0))

    def batch(self, k: int) -> Episode:
        block, within = divmod(k, BLOCK)
        if block != self._block:
            self._drawn = self.sampler.draw(block * BLOCK * self.tasks, BLOCK * self.tasks)
            self._block = block
        first = within * self.tasks
        rows = slice(first + self._part.start, first + self._part.stop)
        position, drawn = self._drawn
        return self.sampler.episodes(position[rows], drawn[rows])


class MinibatchStream:
    """Mini-batches over all images of a split: every epoch is a new permutation, the ragged end is dropped.

    Of `parts` equal parts of each batch this stream gives the one.
    """

    def __init__(
        self, images: ImageSet, split: str, *, batch_size: int, seed: int, shift: int = 0,
        device: torch.device | None = None, part: int = 0, parts: int = 1,
    ) -> None:  # fmt: skip
        self.source = _Source(images, split, device or torch.device("cpu"), shift)
        sizes = self.source.sizes
        self._class = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
        first = sizes.cumsum(0) - sizes
        within = torch.arange(len(self._class), device=sizes.device) - first[self._class]
        self._rows = self.source.starts[self._class] + within
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
        epoch, within = divmod(k, self.per_epoch)
        if epoch != self._epoch:
            counter = torch.arange(len(self._rows), device=self._rows.device)
            key = random.mix(self._key, counter.new_full((), epoch))
            self._order, self._epoch = random.mix(key, counter).argsort(), epoch
        place = torch.arange(self._part.start, self._part.stop, device=self._rows.device)
        chosen = self._order[within * self.batch_size + place]
        rows = self._rows[chosen]
        key = random.mix(random.mix(self._key, place.new_full((), -k - 1)), place)
        if self.source.turns > 1:
            rows = rows + random.below(key, self.source.turns) * self.source.turn_stride
        if self.source.shift:
            rows = self.source.moved(rows, random.mix(key, key.new_full((), 0)))
        return Minibatch(self.source.gather(rows), self._class[chosen])


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
    wish: Stream, images: ImageSet, split: str, *, seed: int, within_groups: bool, device: torch.device,
    shift: int = 0, part: int = 0, parts: int = 1,
) -> BatchStream:  # fmt: skip
    """The training stream that an algorithm asks for by its `stream`, or one of `parts` equal parts of it."""
    if isinstance(wish, Minibatches):
        return MinibatchStream(
            images, split, batch_size=wish.batch_size, seed=seed, shift=shift, device=device, part=part, parts=parts
        )
    assert isinstance(wish, Episodes)
    if wish.tasks < 1:
        raise InputError(f"tasks={wish.tasks} is below 1; a step needs at least one episode")
    sampler = EpisodeSampler(
        images, split, ways=wish.ways, shots=wish.shots, queries=wish.queries, seed=seed,
        within_groups=within_groups, shift=shift, device=device,
    )  # fmt: skip
    return EpisodeStream(sampler, wish.tasks, part=part, parts=parts)
