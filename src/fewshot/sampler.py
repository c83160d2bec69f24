"""From a split to episodes, as a pure function of (seed, split, k). Layer 2.

A draw is integer arithmetic on small tensors (`ops.random`), a batch is one gather from the image array, one
conversion to float and the transforms, each for all images at once. Episode k is the same in every batch in
which it is drawn.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.class_groups import ClassGroups
from fewshot.datasets.base import ImageSet
from fewshot.episode import Episode
from fewshot.errors import InputError
from fewshot.ops import random
from fewshot.sizes import Value, sizes
from fewshot.source import Source, pipeline
from fewshot.transforms import Transform


class Drawn(NamedTuple):
    """T episodes before their images are gathered; M queries in each, sorted by class.

    N, K and M are the most that an episode may have; a smaller one is padded.
    """

    position: Tensor  # [T, N] int64, of the classes within the split
    support: Tensor  # [T, N, K] int64 rows of the image array
    query: Tensor  # [T, M] int64 rows of the image array
    query_y: Tensor  # [T, M] int64 in 0..N-1
    number: Tensor  # [T, M] int64, of a query among those of its class
    keys: Tensor  # [T, N] int64, what the transforms of the class's images draw from
    shots: Tensor  # [T, N] int64 in 0..K, support images that are no padding; 0: the class itself is padding
    real: Tensor  # [T, M] bool, queries that are no padding


class EpisodeSampler:
    """N-way K-shot Q-query episodes of one split.

    ways, shots, queries: a number, or how it is drawn for each episode (see `sizes`). Batches then have the shapes of
    the largest episode: smaller ones are padded by further images of the same classes, with the label -1, and by
    further classes, with the id -1.
    transforms: what is done to every image, after the data set's own transforms.
    support, support_copies: each support image is replaced by so many copies, changed by the transforms `support`:
    an episode then has K * support_copies support images per class.
    queries are those of each class; with `dirichlet` `total_queries` in all (None: ways * queries), in random shares.
    The shares follow a symmetric Dirichlet distribution of this concentration, a whole number (2 in Veilleux et al.
    2021, arXiv:2204.11181, section 3), rounded to whole images by largest remainders. A class may then have none.
    given: episodes that were drawn elsewhere, in the place of this sampler's own (see `episode_file`).
    within_groups: all classes of an episode come from one group (an alphabet), drawn uniformly among the
    groups with at least `ways` classes (see `class_groups`).
    Raises InputError where the split cannot give such episodes.
    """

    def __init__(
        self,
        images: ImageSet,
        split: str,
        *,
        ways: Value,
        shots: Value,
        queries: Value,
        seed: int,
        dirichlet: int | None = None,
        total_queries: int | None = None,
        within_groups: bool = False,
        transforms: Iterable[Transform] = (),
        support: Iterable[Transform] = (),
        support_copies: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.sizes = sizes(ways, shots, queries)
        self.ways, self.shots, self.queries = (size.high for size in self.sizes[:3])
        self.padded = self.sizes.drawn
        if dirichlet is not None and dirichlet < 1:
            raise InputError(f"a Dirichlet concentration of {dirichlet} is below 1; the usual one is 2")
        if dirichlet is not None and (self.sizes.rest_of or self.sizes.ways.low < self.ways):
            raise InputError(
                "evaluation.query_balance=dirichlet shares out one number of queries among one number of ways; give "
                "ways and queries as numbers"
            )
        self.dirichlet = dirichlet
        if total_queries is not None and (dirichlet is None or total_queries < 1):
            raise InputError(
                f"evaluation.total_queries={total_queries} must be 1 or more, and needs "
                "evaluation.query_balance=dirichlet: otherwise there are `queries` of each class"
            )
        self.total_queries = self.ways * self.queries if total_queries is None else total_queries
        self.most = self.queries if dirichlet is None else self.total_queries  # that one class may have
        self.images_per_class = self.sizes.rest_of or self.shots + self.most
        self.transforms = pipeline(images, transforms)
        self.support_transforms = pipeline(images, transforms, support) if support_copies else self.transforms
        self.support_copies = support_copies
        self.source = Source(images, split, device or torch.device("cpu"))
        self._key = random.key(seed, split, "episodes")
        self.groups = ClassGroups(images, split, ways=self.ways, within_groups=within_groups, device=self.source.device)
        classes = self.source.classes
        self._ids = classes.to(self.source.device)
        small = classes[self.source.sizes.cpu() < self.images_per_class].tolist()
        if small:
            named = ", ".join(images.class_names[c] for c in small[:5])
            most = "queries" if dirichlet is None else "all queries"  # they may fall to one class
            raise InputError(
                f"{len(small)} classes of split '{split}' of '{images.name}' have fewer than "
                f"shots+{most}={self.images_per_class} images ({named}{', ...' if len(small) > 5 else ''}); "
                f"lower shots or queries{', or ' + images.few_images if images.few_images else ''}"
            )
        self.given: Drawn | None = None
        self.given_from: str | None = None  # twelve digits of the file's hash

    def of_size(self, ways: int, shots: int, queries: int) -> "EpisodeSampler":
        """The same for episodes of one size, which this one may draw; they are those of a sampler made with these
        numbers (within_groups: from groups that have classes for the most ways)."""
        other = copy.copy(self)
        other.sizes, other.padded = sizes(ways, shots, queries), False
        other.ways, other.shots, other.queries = ways, shots, queries
        other.total_queries, other.most, other.images_per_class = ways * queries, queries, shots + queries
        return other

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
        position = self.groups.draw(key, self.ways)  # [T, N]
        lane = torch.arange(2, 2 + self.ways, device=key.device)
        per_class = random.mix(key[:, None], lane)  # [T, N]
        if self.given is not None:
            held = episode.clamp(max=len(self.given.query) - 1)  # whoever reads ahead asks for more
            return Drawn(*[t[held] for t in self.given])._replace(keys=per_class)
        drawing = random.distinct(per_class, self.source.sizes[position], self.images_per_class)
        rows = self.source.starts[position][..., None] + drawing  # [T, N, images per class]
        query_y, number = self._shared_out(key)
        shots, real = self._unpadded_sizes(key, query_y, number)
        place = query_y * self.most + number  # [T, M], among the last images of all classes
        query = rows[..., -self.most :].flatten(1).gather(1, place)
        return Drawn(position, rows[..., : self.shots], query, query_y, number, per_class, shots, real)

    def _unpadded_sizes(self, key: Tensor, query_y: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        """The fields `shots` and `real` for the keys [T] of the episodes."""
        of_ways, of_shots = self.sizes.ways, self.sizes.shots
        if not self.padded:
            return key.new_full((len(key), self.ways), self.shots), torch.ones_like(query_y, dtype=torch.bool)
        place = torch.arange(self.ways, device=key.device)
        bits = random.mix(key, key.new_full((), -2))[:, None]  # [T, 1]
        bits = random.mix(bits, place) if of_shots.per == "class" else bits
        shots = of_shots.low + random.below(bits, of_shots.high - of_shots.low + 1)
        ways = of_ways.low + random.below(random.mix(key, key.new_full((), -3)), of_ways.high - of_ways.low + 1)
        shots = shots * (place < ways[:, None])  # [T, N]
        of_class = shots.gather(1, query_y)
        real = of_class > 0
        if self.sizes.rest_of:  # the first images of a class are the shots, all others the queries
            real &= number + of_shots.low >= of_class
        return shots, real

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
        copies = max(self.support_copies, 1)
        support = drawn.support.repeat_interleave(copies, -1)  # [T, N, K * copies]
        shots, device = support.shape[-1], drawn.query_y.device  # rows may lie where the pixels are
        number = torch.arange(shots, device=device).repeat(len(support), self.ways)  # of an image within its class
        of_support, of_query = drawn.keys.repeat_interleave(shots, 1), drawn.keys.gather(1, drawn.query_y)
        support_x = self._images(support.flatten(1), self.support_transforms, of_support, number)
        query_x = self._images(drawn.query, self.transforms, of_query, shots + drawn.number)
        return self.labelled(drawn, support_x, query_x, copies)

    def labelled(self, drawn: Drawn, support_x: Tensor, query_x: Tensor, copies: int = 1) -> Episode:
        """The episodes with these images, or their embeddings, [T, N * K * copies, ...] and [T, M, ...]."""
        labels = torch.arange(self.ways, device=support_x.device).repeat_interleave(self.shots * copies)
        support_y, query_y = labels.repeat(len(support_x), 1), drawn.query_y
        classes = self._ids[drawn.position]
        if self.padded:
            number = torch.arange(self.shots * copies, device=support_y.device)
            over = (number >= copies * drawn.shots[..., None]).flatten(1)  # [T, N * K * copies]
            support_y, query_y = support_y.masked_fill(over, -1), query_y.masked_fill(~drawn.real, -1)
            classes = classes.masked_fill(drawn.shots == 0, -1)
        return Episode(support_x, support_y, query_x, query_y, classes)

    def _images(self, rows: Tensor, transforms: Sequence[Transform], of_class: Tensor, number: Tensor) -> Tensor:
        """Rows [T, M] of images, with the keys and the numbers within their classes [T, M] -> [T, M, C, H, W]."""

        def keys(transform: Transform) -> Tensor:
            key = random.mix(of_class, of_class.new_full((), transform.lane))
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
