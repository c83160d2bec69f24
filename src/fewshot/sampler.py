"""From a split to episodes, as a pure function of (seed, split, k). Layer 2.

A draw is integer arithmetic on small tensors (`ops.random`), a batch is one gather from the image array, one
conversion to float and the transforms, each for all images at once. Episode k is the same in every batch in
which it is drawn.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.datasets.base import ImageSet
from fewshot.episode import Episode
from fewshot.errors import InputError
from fewshot.ops import random
from fewshot.source import Source, pipeline
from fewshot.transforms import Transform

log = logging.getLogger("fewshot")


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
        self.source = Source(images, split, device or torch.device("cpu"))
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

    def draw(self, first: int | Tensor, tasks: int) -> Drawn:
        """Episodes first..first+tasks-1; first may be an int64 scalar on the device."""
        episode = torch.arange(tasks, device=self.source.device) + first  # [T]
        key = random.mix(self._key, episode)  # [T]
        group = random.below(random.mix(key, key.new_full((), 0)), len(self._count))
        member = random.distinct(random.mix(key, key.new_full((), 1)), self._count[group], self.ways)
        position = self._order[self._first[group][:, None] + member]  # [T, N]
        lane = torch.arange(2, 2 + self.ways, device=key.device)
        per_class = random.mix(key[:, None], lane)  # [T, N]
        if self.given is not None:
            held = episode.clamp(max=len(self.given.query) - 1)  # whoever reads ahead asks for more
            return Drawn(*[t[held] for t in self.given])._replace(keys=per_class)
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
        shots, device = support.shape[-1], drawn.query_y.device  # rows may lie where the pixels are
        labels = torch.arange(self.ways, device=device).repeat_interleave(shots).repeat(tasks, 1)
        number = torch.arange(shots, device=device).repeat(tasks, self.ways)  # of an image within its class
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

    def sample(self, first: int | Tensor, tasks: int) -> Episode:
        """Episodes first..first+tasks-1 of this stream."""
        batch = self.episodes(self.draw(first, tasks))
        if self.source.reads_ahead:
            coming = self.draw(first + tasks, tasks)
            self.source.expect(coming.support, coming.query)
        return batch


def _or(instead: str | None) -> str:
    return f", or {instead}" if instead else ""
