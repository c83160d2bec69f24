"""From a split to batches: episodes and mini-batches as pure functions of (seed, split, k). Layer 2.

A draw is integer arithmetic on small tensors (`ops.random`), a batch is one gather from the image array, one
conversion to float and the transforms, each for all images at once. Episode k is the same in every batch in
which it is drawn.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fewshot.datasets.base import ImageSet
from fewshot.episode import Batch, Episode, Episodes, Minibatch, Minibatches, Stream
from fewshot.errors import InputError
from fewshot.ops import random
from fewshot.transforms import Transform, centre, described

log = logging.getLogger("fewshot")
BLOCK = 64  # batches whose indices are drawn at once, so that small tensor operations do not add up


class BatchStream(Protocol):
    """What the trainer draws from: batch k of an endless, addressable stream."""

    def batch(self, k: int) -> Batch: ...


class _Source:
    """The images of one split on one device, ready to gather."""

    def __init__(self, images: ImageSet, split: str, device: torch.device) -> None:
        self.classes = torch.tensor(list(images.split(split)))
        self.starts = images.offsets[:-1][self.classes].to(device)
        sizes = (images.offsets[1:] - images.offsets[:-1])[self.classes]
        self.sizes, self.count = sizes.to(device), int(sizes.sum())
        self.pixels = images.images  # on the device already, where they fit (`ImageSet.on`)
        self.shape, self.device = images.image_shape, device

    def gather(self, rows: Tensor, transforms: Sequence[Transform], keys: Callable[[Transform], Tensor]) -> Tensor:
        """Image rows [...] -> float32 images [..., C, H, W] in [0, 1].

        keys: the keys [...] with which the images take part in a transform's draws.
        """
        flat = self.pixels.index_select(0, rows.flatten().to(self.pixels.device)).to(self.device)
        x = flat.to(torch.float32).div_(255)
        for transform in transforms:
            x = transform(x, keys(transform).flatten())
        return centre(x, self.shape[1:]).reshape(*rows.shape, *self.shape)


def pipeline(images: ImageSet, *more: Iterable[Transform]) -> list[Transform]:
    """The data set's own transforms and `more`, tried on a black image: what cannot work is the user's error."""
    transforms = [*images.transforms, *(t for group in more for t in group)]
    lanes: dict[int, Transform] = {}
    x = torch.zeros(1, *images.images.shape[1:])
    for transform in transforms:
        if (other := lanes.setdefault(transform.lane, transform)) is not transform:
            raise InputError(f"{transform} would draw what {other} draws; use only one {type(other).__name__}")
        x = transform(x, torch.zeros(1, dtype=torch.int64))
    wanted = images.image_shape
    if x.shape[1] != wanted[0] or x.shape[2] < wanted[1] or x.shape[3] < wanted[2]:
        raise InputError(
            f"the transforms {', '.join(described(transforms))} give images of {'x'.join(map(str, x.shape[1:]))} for "
            f"a model of {'x'.join(map(str, wanted))}; change their sizes, or dataset.size"
        )
    return transforms


class Drawn(NamedTuple):
    """T episodes before their images are gathered; M queries in each, sorted by class."""

    position: Tensor  # [T, N] int64, of the classes within the split
    support: Tensor  # [T, N, K] int64 rows of the image array
    query: Tensor  # [T, M] int64 rows of the image array
    query_y: Tensor  # [T, M] int64 in 0..N-1
    number: Tensor  # [T, M] int64, of a query among those of its class
    keys: Tensor  # [T, N] int64, what the transforms of the class's images draw from


class EpisodeSampler:
    """N-way K-shot Q-query episodes of one split.

    transforms: what is done to every image, after the data set's own transforms.
    support, support_copies: each support image is replaced by so many copies, changed by the transforms `support`:
    an episode then has K * support_copies support images per class.
    queries: of each class; with `dirichlet` `total_queries` in all (None: ways * queries), in random shares. The shares
    follow a symmetric Dirichlet distribution of this concentration, a whole number (2 in Veilleux et al. 2021,
    arXiv:2204.11181, section 3), rounded to whole images by largest remainders. A class may then have none.
    given: episodes that were drawn elsewhere, in the place of this sampler's own (see `episode_file`).
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
        dirichlet: int | None = None,
        total_queries: int | None = None,
        within_groups: bool = False,
        transforms: Iterable[Transform] = (),
        support: Iterable[Transform] = (),
        support_copies: int = 0,
        device: torch.device | None = None,
    ) -> None:
        for name, value, least in (("ways", ways, 2), ("shots", shots, 1), ("queries", queries, 1)):
            if value < least:
                raise InputError(f"{name}={value} is below {least}; set {name} to at least {least}")
        if dirichlet is not None and dirichlet < 1:
            raise InputError(f"a Dirichlet concentration of {dirichlet} is below 1; the usual one is 2")
        self.ways, self.shots, self.queries, self.dirichlet = ways, shots, queries, dirichlet
        if total_queries is not None and (dirichlet is None or total_queries < 1):
            raise InputError(
                f"evaluation.total_queries={total_queries} must be 1 or more, and needs "
                "evaluation.query_balance=dirichlet: otherwise there are `queries` of each class"
            )
        self.total_queries = ways * queries if total_queries is None else total_queries
        self.most = queries if dirichlet is None else self.total_queries  # that one class may have
        self.transforms = pipeline(images, transforms)
        self.support_transforms = pipeline(images, transforms, support) if support_copies else self.transforms
        self.support_copies = support_copies
        self.source = _Source(images, split, device or torch.device("cpu"))
        self._key = random.key(seed, split, "episodes")
        classes = self.source.classes
        if ways > len(classes):
            raise InputError(
                f"ways={ways} but split '{split}' of '{images.name}' has {len(classes)} classes; "
                + ("lower ways" if len(classes) > 1 else "it needs two at least; choose another split or more data")
                + _or(images.few_classes)
            )
        small = classes[self.source.sizes.cpu() < shots + self.most].tolist()
        if small:
            named = ", ".join(images.class_names[c] for c in small[:5])
            most = "queries" if dirichlet is None else "all queries"  # they may fall to one class
            raise InputError(
                f"{len(small)} classes of split '{split}' of '{images.name}' have fewer than "
                f"shots+{most}={shots + self.most} images ({named}{', ...' if len(small) > 5 else ''}); "
                f"lower shots or queries{_or(images.few_images)}"
            )
        self.given: Drawn | None = None
        self.given_from: str | None = None  # twelve digits of the file's hash
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

    @property
    def query_balance(self) -> str:
        """What a result says of the queries' classes."""
        if self.given_from:
            return "as in the file"
        return "uniform" if self.dirichlet is None else f"dirichlet({self.dirichlet}), {self.total_queries} in all"

    def draw(self, first: int, tasks: int) -> Drawn:
        """Episodes first..first+tasks-1."""
        key = random.mix(self._key, torch.arange(first, first + tasks, device=self.source.device))  # [T]
        group = random.below(random.mix(key, key.new_full((), 0)), len(self._count))
        member = random.distinct(random.mix(key, key.new_full((), 1)), self._count[group], self.ways)
        position = self._order[self._first[group][:, None] + member]  # [T, N]
        lane = torch.arange(2, 2 + self.ways, device=key.device)
        per_class = random.mix(key[:, None], lane)  # [T, N]
        if self.given is not None:
            return Drawn(*[t[first : first + tasks] for t in self.given])._replace(keys=per_class)
        drawing = random.distinct(per_class, self.source.sizes[position], self.shots + self.most)
        rows = self.source.starts[position][..., None] + drawing  # [T, N, K + most]
        query_y, number = self._shared_out(key)
        place = query_y * self.most + number  # [T, M], among the rows after the support's
        query = rows[..., self.shots :].flatten(1).gather(1, place)
        return Drawn(position, rows[..., : self.shots], query, query_y, number, per_class)

    def _shared_out(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """The class of each query and its number within the class: [T, M] each, for the keys [T] of the episodes."""
        total = self.total_queries
        counts = torch.full((len(key), self.ways), self.queries, device=key.device)
        if self.dirichlet is not None:
            share = random.dirichlet(random.mix(key, key.new_full((), -1)), self.ways, self.dirichlet)  # [T, N]
            counts = random.rounded(share, total)
        last = counts.cumsum(1)  # [T, N]
        place = torch.arange(total, device=key.device)
        query_y = (place[:, None] >= last[:, None]).sum(-1)  # [T, M]
        return query_y, place - (last - counts).gather(1, query_y)

    def episodes(self, drawn: Drawn) -> Episode:
        """Gather what `draw` chose."""
        tasks, copies = len(drawn.query), max(self.support_copies, 1)
        support = drawn.support.repeat_interleave(copies, -1)  # [T, N, K * copies]
        shots = support.shape[-1]
        labels = torch.arange(self.ways, device=support.device).repeat_interleave(shots).repeat(tasks, 1)
        number = torch.arange(shots, device=support.device).repeat(tasks, self.ways)  # of an image within its class
        return Episode(
            support_x=self._images(support.flatten(1), self.support_transforms, drawn.keys, labels, number),
            support_y=labels,
            query_x=self._images(drawn.query, self.transforms, drawn.keys, drawn.query_y, shots + drawn.number),
            query_y=drawn.query_y,
            classes=self._ids[drawn.position],
        )

    def _images(
        self, rows: Tensor, transforms: Sequence[Transform], per_class: Tensor, y: Tensor, number: Tensor
    ) -> Tensor:
        """Rows [T, M] of images with these labels and numbers within their classes -> [T, M, C, H, W]."""

        def keys(transform: Transform) -> Tensor:
            key = random.mix(per_class, per_class.new_full((), transform.lane)).gather(1, y)  # [T, M]
            return random.mix(key, number) if transform.per == "image" else key

        return self.source.gather(rows, transforms, keys)

    @property
    def fixed_images(self) -> bool:
        """Whether an image of the split looks the same in every episode."""
        return not self.support_copies and not any(transform.draws for transform in self.transforms)

    def images(self, rows: Tensor) -> Tensor:
        """Rows [B] of the image array as episodes have them, where `fixed_images` is true: [B, C, H, W]."""
        return self.source.gather(rows, self.transforms, lambda transform: torch.zeros_like(rows))

    def sample(self, first: int, tasks: int) -> Episode:
        """Episodes first..first+tasks-1 of this stream."""
        return self.episodes(self.draw(first, tasks))


def _or(instead: str | None) -> str:
    return f", or {instead}" if instead else ""


class EpisodeStream:
    """Batch k of a training run: `tasks` consecutive episodes of a sampler, or one of `parts` equal parts of them.

    Every part draws all indices (some microseconds) and gathers its own images.
    """

    def __init__(self, sampler: EpisodeSampler, tasks: int, *, part: int = 0, parts: int = 1) -> None:
        self.sampler, self.tasks = sampler, tasks
        self._part = _share(tasks, part, parts, "algorithm.stream.tasks")
        self._block, self._drawn = -1, Drawn(*[torch.empty(0)] * 6)

    def batch(self, k: int) -> Episode:
        block, within = divmod(k, BLOCK)
        if block != self._block:
            self._drawn = self.sampler.draw(block * BLOCK * self.tasks, BLOCK * self.tasks)
            self._block = block
        first = within * self.tasks
        rows = slice(first + self._part.start, first + self._part.stop)
        return self.sampler.episodes(Drawn(*[t[rows] for t in self._drawn]))


class MinibatchStream:
    """Mini-batches over all images of a split: every epoch is a new permutation, the ragged end is dropped.

    Of `parts` equal parts of each batch this stream gives the one.
    """

    def __init__(
        self, images: ImageSet, split: str, *, batch_size: int, seed: int, transforms: Iterable[Transform] = (),
        device: torch.device | None = None, part: int = 0, parts: int = 1,
    ) -> None:  # fmt: skip
        self.transforms = pipeline(images, transforms)
        self.source = _Source(images, split, device or torch.device("cpu"))
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
        key = random.mix(random.mix(self._key, place.new_full((), -k - 1)), place)

        def keys(transform: Transform) -> Tensor:  # in QuarterTurn's lane the key itself: published results drew so
            return key if transform.lane == -1 else random.mix(key, key.new_full((), -2 - transform.lane))

        return Minibatch(self.source.gather(self._rows[chosen], self.transforms, keys), self._class[chosen])


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
