"""Episodes and mini-batches are pure functions of (seed, split, k), uniform, and never show an image twice."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fewshot.datasets.base import ImageSet
from fewshot.datasets.turned import ONE_PER_TASK_AND_CLASS
from fewshot.episode import Episode, Episodes, Minibatches
from fewshot.errors import InputError
from fewshot.ops import random
from fewshot.sampler import EpisodeSampler
from fewshot.sizes import Value
from fewshot.streams import BLOCK, EpisodeStream, MinibatchStream, SizedStream, stream
from fewshot.transforms import CenterCrop, ColorJitter, RandomCrop, RandomHorizontalFlip, Shift, Transform

Make = Callable[..., ImageSet]
CPU = torch.device("cpu")
TURNED = {"transforms": [ONE_PER_TASK_AND_CLASS]}
UNEQUAL = (7, 30, 12, 9, 8, 20, 7, 11)
GOLDEN_CLASSES = [[1, 6, 7], [0, 6, 1], [0, 4, 3]]
GOLDEN_SUPPORT = [[13, 92, 103], [0, 89, 10], [3, 59, 57]]
GOLDEN_QUERY = [[33, 17, 86, 90, 101, 99], [3, 4, 90, 86, 27, 24], [4, 0, 64, 60, 54, 50]]
GOLDEN_TURNS = [[3, 2, 1], [3, 1, 0], [0, 1, 3]]
GOLDEN_SIZES = [(2, 4, 3), (4, 4, 3), (3, 1, 6), (4, 3, 4)]
GOLDEN_MINIBATCH = [72, 45, 4, 98, 18, 41, 31, 7]


def sampler(
    images: ImageSet,
    split: str = "train",
    *,
    ways: Value = 5,
    shots: Value = 2,
    queries: Value = 3,
    seed: int = 0,
    **options: Any,
) -> EpisodeSampler:
    return EpisodeSampler(images, split, ways=ways, shots=shots, queries=queries, seed=seed, **options)


def rows_of(x: Tensor) -> Tensor:
    """The row that each image of `make_images` names in its pixels."""
    pixels = (x.flatten(-3) * 255).round().long()
    return pixels[..., 0] + 256 * pixels[..., 1]


def turns_of(x: Tensor) -> Tensor:
    """How often each image of `make_images` was turned, by where its white pixel is."""
    return torch.tensor([2, 1, 3, 0])[(x.flatten(-3) * 255).round().long().eq(255).long().argmax(-1)]


def upright(x: Tensor) -> Tensor:
    """The images of `make_images`, turned back."""
    flat, turns = x.flatten(0, -4), turns_of(x).flatten().tolist()
    back = [image.rot90(-turn, (-2, -1)) for image, turn in zip(flat, turns, strict=True)]
    return torch.stack(back).view_as(x)


def chi_square(counts: Tensor) -> float:
    expected = counts.double().mean()
    return float(((counts - expected) ** 2 / expected).sum())


def same(a: Episode, b: Episode) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_shapes_types_and_class_major_labels(make_images: Make) -> None:
    batch = sampler(make_images(UNEQUAL)).sample(0, 4)
    assert batch.support_x.shape == (4, 10, 1, 2, 2)
    assert batch.query_x.shape == (4, 15, 1, 2, 2)
    assert batch.support_x.dtype == batch.query_x.dtype == torch.float32
    assert batch.support_y.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4]] * 4
    assert batch.query_y.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]] * 4
    assert batch.classes.shape == (4, 5)
    assert batch.classes.dtype == torch.int64


def test_pixels_are_scaled_to_one() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1, 1).expand(5, 3, 1, 1, 1).flatten(0, 1)
    grey = ImageSet(
        name="grey", images=images, offsets=torch.arange(6) * 3, class_names=list("abcde"), groups=list("abcde"),
        splits={"train": range(5)},
    )  # fmt: skip
    batch = sampler(grey, shots=1, queries=2).sample(0, 1)
    assert torch.cat([batch.support_x, batch.query_x], 1).unique().tolist() == pytest.approx([0, 0.2, 1])


def test_images_are_of_the_classes_they_are_labelled_with(make_images: Make) -> None:
    images = make_images(UNEQUAL)
    batch = sampler(images).sample(0, 200)
    for x, y in ((batch.support_x, batch.support_y), (batch.query_x, batch.query_y)):
        owner = torch.searchsorted(images.offsets, rows_of(x), right=True) - 1
        assert torch.equal(owner, batch.classes.gather(1, y))


def test_no_image_twice_in_an_episode_and_no_class_twice(make_images: Make) -> None:
    batch = sampler(make_images(UNEQUAL), shots=2, queries=5).sample(0, 500)  # 7 is all of the smallest classes
    rows = rows_of(torch.cat([batch.support_x, batch.query_x], 1))
    assert (rows.sort(-1).values.diff(dim=-1) > 0).all()  # support and query are disjoint, too
    assert (batch.classes.sort(-1).values.diff(dim=-1) > 0).all()


def test_classes_come_from_the_split_alone_and_all_of_them(make_images: Make) -> None:
    images = make_images([6] * 12, splits={"train": [0, 2, 4, 6, 8], "val": [1, 3, 5], "test": [7, 9, 10, 11]})
    for split, ids in images.splits.items():
        classes = sampler(images, split, ways=3).sample(0, 100).classes
        assert set(classes.flatten().tolist()) == set(ids)


def test_an_episode_does_not_depend_on_the_batch_it_is_drawn_in(make_images: Make) -> None:
    draws = sampler(make_images(UNEQUAL))
    together = draws.sample(0, 40)
    for first, tasks in ((0, 1), (7, 1), (39, 1), (5, 30), (38, 2)):
        part = Episode(*[t[first : first + tasks] for t in together])
        assert same(draws.sample(first, tasks), part)
    far = draws.sample(10**9, 2)
    assert same(Episode(*[t[1:] for t in far]), draws.sample(10**9 + 1, 1))


def test_a_training_stream_is_its_samplers_episodes_in_order(
    make_images: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = sampler(make_images(UNEQUAL))
    for block in (BLOCK, 3):  # nor on the number of batches whose indices are drawn at once
        monkeypatch.setattr("fewshot.streams.BLOCK", block)
        batches = EpisodeStream(draws, tasks=3)
        for k in (0, 1, block - 1, block, 2 * block + 1, 0):  # forwards, over blocks, and back
            assert same(batches.batch(k), draws.sample(3 * k, 3))


DRAWN = Episodes(tasks=2, ways={"low": 2, "high": 5}, shots={"low": 1, "high": 4}, queries={"rest_of": 7})


@pytest.mark.parametrize(
    "requested", [Episodes(tasks=2, ways=3, shots=1, queries=2), DRAWN, Minibatches(batch_size=30)]
)
def test_the_rows_of_the_next_batch_are_read_ahead(
    make_images: Make, monkeypatch: pytest.MonkeyPatch, requested: Episodes | Minibatches
) -> None:
    """Of an array that may not stay in memory: over the ends of blocks and epochs, and the batches stay the same."""
    images = make_images(UNEQUAL)
    monkeypatch.setattr("fewshot.streams.BLOCK", 2)
    options: Any = {"seed": 0, "within_groups": False, "device": CPU, "padded": False}
    usual = stream(requested, images, "train", **options)
    monkeypatch.setattr("fewshot.engine.read_ahead.LARGE", 1)
    asked = list[Tensor]()
    monkeypatch.setattr("fewshot.source.read_ahead", lambda array, rows: asked.append(rows.flatten()))
    reading = stream(requested, images, "train", **options)
    for k in range(6):
        batch, other = reading.batch(k), usual.batch(k)
        assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))
        if k:
            x = [batch.support_x, batch.query_x] if isinstance(batch, Episode) else [batch.x]
            assert torch.equal(torch.cat([rows_of(part).flatten() for part in x]), asked[k - 1])
    assert len(asked) == 6
    draws = sampler(images)
    draws.sample(0, 2)
    after = draws.sample(2, 2)
    rows = torch.cat([rows_of(after.support_x).flatten(), rows_of(after.query_x).flatten()])
    assert torch.equal(asked[6], rows)


def test_streams_differ_by_seed_and_split(make_images: Make) -> None:
    images = make_images([9] * 10, splits={"train": range(10), "trainval": range(10)})
    draws = [sampler(images, split, seed=seed).sample(0, 20) for split in ("train", "trainval") for seed in (0, 1)]
    rows = [rows_of(d.support_x) for d in draws]
    for i in range(4):
        assert same(draws[i], sampler(images, ("train", "trainval")[i // 2], seed=i % 2).sample(0, 20))
        for j in range(i):
            assert (rows[i] == rows[j]).float().mean() < 0.1


def test_streams_never_change_silently(make_images: Make) -> None:
    """Published results name their episodes by (seed, split, k): these indices must stay as they are."""
    draws = sampler(make_images(UNEQUAL), ways=3, shots=1, queries=2)
    batch = draws.sample(0, 3)
    assert batch.classes.tolist() == GOLDEN_CLASSES
    assert rows_of(batch.support_x).tolist() == GOLDEN_SUPPORT
    assert rows_of(batch.query_x).tolist() == GOLDEN_QUERY
    turned = sampler(make_images(UNEQUAL, **TURNED), ways=3, shots=1, queries=2).sample(0, 3)
    assert turns_of(turned.support_x).tolist() == GOLDEN_TURNS
    minibatch = MinibatchStream(make_images(UNEQUAL), "train", batch_size=8, seed=0).batch(20)
    assert rows_of(minibatch.x).tolist() == GOLDEN_MINIBATCH


def test_classes_and_images_are_drawn_uniformly(make_images: Make) -> None:
    images = make_images(UNEQUAL)
    batch = sampler(images, ways=3, shots=1, queries=1).sample(0, 20_000)
    assert chi_square(torch.bincount(batch.classes.flatten())) < 26  # 7 degrees of freedom: p = 5e-4
    for x in (batch.support_x, batch.query_x):
        counts = torch.bincount(rows_of(x).flatten(), minlength=sum(UNEQUAL))
        for c, size in enumerate(UNEQUAL):
            start = int(images.offsets[c])
            assert chi_square(counts[start : start + size]) < size - 1 + 5 * (2 * (size - 1)) ** 0.5


def test_every_label_is_as_likely_for_every_class(make_images: Make) -> None:
    classes = sampler(make_images([5] * 6), ways=3, shots=1, queries=1).sample(0, 6000).classes
    counts = torch.bincount((classes * 3 + torch.arange(3)).flatten(), minlength=18)
    assert chi_square(counts) < 45


GROUPS = ["a"] * 3 + ["b"] * 12 + ["c"] * 2 + ["d"] * 4  # c has fewer classes than ways


def test_within_groups_an_episode_stays_in_one_group(make_images: Make) -> None:
    draws = sampler(make_images([6] * 21, groups=GROUPS), ways=3, within_groups=True)
    classes = draws.sample(0, 300).classes
    drawn = [{GROUPS[c] for c in episode} for episode in classes.tolist()]
    assert all(len(groups) == 1 for groups in drawn)
    assert set.union(*drawn) == {"a", "b", "d"}
    assert (draws.groups.skipped, len(draws.groups.sizes)) == (1, 3)
    assert set(classes.flatten().tolist()) == {c for c in range(21) if GROUPS[c] != "c"}


def test_groups_are_equally_likely_whatever_their_size(make_images: Make) -> None:
    draws = sampler(make_images([6] * 21, groups=GROUPS), ways=3, within_groups=True)
    first = draws.sample(0, 6000).classes[:, 0]
    counts = torch.tensor([sum(GROUPS[c] == g for c in first.tolist()) for g in "abd"])
    assert chi_square(counts) < 14  # 2 degrees of freedom: p = 1e-3
    of_b = torch.bincount(first[(first >= 3) & (first < 15)] - 3, minlength=12)
    assert chi_square(of_b) < 32  # 11: p = 1e-3


def test_across_groups_all_classes_are_one_pool(make_images: Make) -> None:
    draws = sampler(make_images([6] * 21, groups=GROUPS), ways=15)
    assert (draws.groups.skipped, len(draws.groups.sizes)) == (0, 1)
    assert set(draws.sample(0, 20).classes.flatten().tolist()) == set(range(21))


def test_one_turn_per_class_and_task(make_images: Make) -> None:
    batch = sampler(make_images(UNEQUAL, **TURNED)).sample(0, 2000)
    turns = torch.cat([turns_of(x).view(2000, 5, -1) for x in (batch.support_x, batch.query_x)], -1)
    assert (turns == turns[..., :1]).all()
    assert chi_square(torch.bincount(turns[..., 0].flatten(), minlength=4)) < 16.3  # 3: p = 1e-3
    pairs = torch.bincount(turns[:, 0, 0] * 4 + turns[:, 1, 0], minlength=16)  # of two classes: independent
    assert chi_square(pairs) < 37.7  # 15: p = 1e-3


def test_turns_change_nothing_else(make_images: Make) -> None:
    plain, turned = (sampler(make_images(UNEQUAL, **options)).sample(0, 50) for options in ({}, TURNED))
    assert torch.equal(plain.classes, turned.classes)
    assert torch.equal(plain.support_x, upright(turned.support_x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 9}, "ways=9 but split 'train' of 'tiny' has 8 classes; lower ways"),
        ({"shots": 5, "queries": 3}, r"2 classes of split 'train' of 'tiny' have fewer than shots\+queries=8 images"),
        ({"shots": 5, "queries": 3}, r"\(class0, class6\); lower shots or queries"),
        ({"shots": 50}, r"8 classes .* \(class0, class1, class2, class3, class4, \.\.\.\)"),
        ({"within_groups": True}, "ways=5 but the largest group in split 'train' of 'tiny' has 4 classes; lower ways"),
        ({"ways": 1}, "ways=1 is below 2"),
        ({"shots": 0}, "shots=0 is below 1"),
        ({"queries": 0}, "queries=0 is below 1"),
        ({"split": "val"}, r"split 'val' of 'tiny' has no classes; there are: train \(8\)"),
    ],
)  # fmt: skip
def test_episodes_that_cannot_be(make_images: Make, options: dict[str, int], message: str) -> None:
    images = make_images(UNEQUAL, groups=list("aaaabbbc"))
    with pytest.raises(InputError, match=message):
        sampler(images, **options)


def test_episodes_of_drawn_size(make_images: Make) -> None:
    """Ways and shots are uniform, and padding is marked, whatever the batch; all images are of their classes."""
    images = make_images([20] * 8)
    draws = sampler(images, ways={"low": 2, "high": 5}, shots={"low": 1, "high": 9}, queries=2)
    batch = draws.sample(0, 4000)
    assert batch.support_x.shape[:2] == (4000, 45) and batch.query_y.shape == (4000, 10)
    there = batch.classes >= 0  # [T, N]
    shots = (batch.support_y[..., None] == torch.arange(5)).sum(1)  # [T, N]
    assert torch.equal(there, shots > 0) and torch.equal(there.long().sort(descending=True).values, there.long())
    assert chi_square(torch.bincount(there.sum(1))[2:]) < 16.3  # 3 degrees of freedom: p = 1e-3
    assert chi_square(torch.bincount(shots[:, 0])[1:]) < 26.1  # 8
    assert torch.equal(shots, shots[:, :1] * there), "one number of shots for each task"
    assert torch.equal((batch.query_y[..., None] == torch.arange(5)).sum(1), 2 * there)
    assert torch.equal(
        batch.support_y[there.all(1)].unflatten(1, (5, 9)).amax(2), torch.arange(5).expand(there.all(1).sum(), 5)
    )
    for x, y in ((batch.support_x, batch.support_y), (batch.query_x, batch.query_y)):
        owner = torch.searchsorted(images.offsets, rows_of(x), right=True) - 1
        assert torch.equal(owner[y >= 0], batch.classes.gather(1, y.clamp(min=0))[y >= 0])
    rows = rows_of(torch.cat([batch.support_x, batch.query_x], 1))
    assert (rows.sort(-1).values.diff(dim=-1) > 0).all()
    assert same(draws.sample(7, 3), Episode(*[t[7:10] for t in batch]))
    for t, alone in enumerate(Episode(*[t[:50] for t in batch]).unpadded()):
        n, k = int(there[t].sum()), int(shots[t, 0])
        assert alone.support_y.tolist() == [[c for c in range(n) for _ in range(k)]]
        assert alone.query_x.shape[:2] == (1, 2 * n) and alone.classes.tolist() == [batch.classes[t, :n].tolist()]


def test_shots_drawn_per_class_and_queries_that_are_the_rest(make_images: Make) -> None:
    images = make_images([12] * 6)
    draws = sampler(images, ways=3, shots={"low": 1, "high": 9, "per": "class"}, queries={"rest_of": 12})
    batch = draws.sample(0, 3000)
    shots, queries = ((y[..., None] == torch.arange(3)).sum(1) for y in (batch.support_y, batch.query_y))
    assert torch.equal(shots + queries, torch.full_like(shots, 12))
    pairs = torch.bincount(((shots[:, 0] - 1) * 9 + shots[:, 1] - 1), minlength=81)
    assert chi_square(pairs) < 125  # 80: p = 1e-3, two classes of a task are independent
    for episode in Episode(*[t[:20] for t in batch]).unpadded():
        rows = rows_of(torch.cat([episode.support_x, episode.query_x], 1))
        assert len(rows.unique()) == 36, "an image is a shot or a query, and none is left out"


def test_one_size_in_other_words_is_that_size(make_images: Make) -> None:
    fixed, drawn = (sampler(make_images(UNEQUAL), shots=shots) for shots in (2, {"low": 2, "high": 2}))
    assert not drawn.padded and same(fixed.sample(0, 5), drawn.sample(0, 5))


def once_per_batch(images: ImageSet, requested: Episodes = DRAWN, **options: Any) -> SizedStream:
    defaults: dict[str, Any] = {"seed": 0, "within_groups": False, "device": CPU, "padded": False}
    found = stream(requested, images, "train", **(defaults | options))
    assert isinstance(found, SizedStream)
    return found


def test_a_batch_of_the_size_drawn_for_it_is_that_of_the_size_typed(make_images: Make) -> None:
    """In any order, in equal parts for several processes, by whichever stream."""
    images = make_images(UNEQUAL)
    batches, halves = once_per_batch(images), [once_per_batch(images, part=p, parts=2) for p in (0, 1)]
    for k in (0, 1, 2, 64, 1, 10**6):
        ways, shots, queries = batches.size(k)
        typed = Episodes(tasks=2, ways=ways, shots=shots, queries=queries)
        batch = batches.batch(k)
        assert same(batch, stream(typed, images, "train", seed=0, within_groups=False, device=CPU).batch(k))
        assert all((y >= 0).all() for y in (batch.support_y, batch.query_y, batch.classes))
        assert same(batch, Episode(*[torch.cat(t) for t in zip(*[half.batch(k) for half in halves], strict=True)]))


def test_sizes_of_batches_are_uniform_and_depend_on_seed_and_step_alone(make_images: Make) -> None:
    batches, other = (once_per_batch(make_images(UNEQUAL), seed=seed) for seed in (0, 1))
    sizes = [batches.size(k) for k in range(4000)]
    assert sizes[:4] == GOLDEN_SIZES
    assert all(shots + queries == 7 for _, shots, queries in sizes)
    pairs = torch.tensor([4 * (ways - 2) + shots - 1 for ways, shots, _ in sizes])
    assert chi_square(torch.bincount(pairs, minlength=16)) < 37.7  # 15: p = 1e-3
    assert sum(other.size(k) == sizes[k] for k in range(100)) < 20  # of another seed: 6 or 7 are to be expected


def test_batches_of_few_ways_come_from_the_groups_that_serve_the_most(
    make_images: Make, logged: Callable[[], list[str]]
) -> None:
    """One line says which are left out, not one for each number of ways."""
    images = make_images([7] * 21, groups=GROUPS)
    batches = once_per_batch(images, replace(DRAWN, ways={"low": 2, "high": 4}), within_groups=True)
    drawn = [{GROUPS[c] for c in episode} for k in range(60) for episode in batches.batch(k).classes.tolist()]
    assert all(len(groups) == 1 for groups in drawn) and set.union(*drawn) == {"b", "d"}
    assert logged() == ["split 'train' of 'tiny': 2 of 4 groups left out, with fewer than ways=4 classes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": {"low": 1, "high": 9}}, r"have fewer than shots\+queries=12 images"),
        ({"ways": {"low": 5, "high": 9}}, "ways=9 but split 'train' of 'tiny' has 8 classes"),
        ({"queries": {"rest_of": 4}, "dirichlet": 2}, "give ways and queries as numbers"),
    ],
)
def test_drawn_sizes_that_cannot_be(make_images: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sampler(make_images(UNEQUAL), **options)


def test_exactly_enough_is_enough(make_images: Make) -> None:
    batch = sampler(make_images([5] * 4), ways=4, shots=2, queries=3).sample(0, 10)
    rows = rows_of(torch.cat([batch.support_x, batch.query_x], 1))
    assert torch.equal(rows.sort(-1).values, torch.arange(20).expand(10, 20))


def test_an_epoch_shows_each_image_at_most_once(make_images: Make) -> None:
    batches = MinibatchStream(make_images(UNEQUAL, splits={"train": [1, 2, 4]}), "train", batch_size=8, seed=0)
    assert batches.block == 6  # of 50 images; two are left out
    epochs = [torch.cat([rows_of(batches.batch(6 * e + b).x) for b in range(6)]) for e in range(300)]
    for rows in epochs:
        assert len(rows.unique()) == 48
    counts = torch.bincount(torch.cat(epochs), minlength=75)
    assert set(counts.nonzero().flatten().tolist()) == {*range(7, 49), *range(58, 66)}
    assert counts[counts > 0].min() > 250  # the two left out are others each time
    assert not torch.equal(epochs[0], epochs[1])
    places = torch.stack(epochs)[:, 0]
    assert len(places.unique()) > 45  # any image may come first


def test_labels_of_a_minibatch_are_positions_within_the_split(make_images: Make) -> None:
    images = make_images(UNEQUAL, splits={"train": [1, 2, 4]})
    batch = MinibatchStream(images, "train", batch_size=50, seed=0).batch(0)
    assert batch.x.shape == (50, 1, 2, 2)
    owner = torch.searchsorted(images.offsets, rows_of(batch.x), right=True) - 1
    assert torch.equal(torch.tensor([1, 2, 4])[batch.y], owner)
    assert torch.bincount(batch.y).tolist() == [30, 12, 8]


def test_minibatch_k_does_not_depend_on_history(make_images: Make) -> None:
    images = make_images(UNEQUAL, **TURNED)
    batches = MinibatchStream(images, "train", batch_size=9, seed=0)
    forwards = [batches.batch(k) for k in range(30)]
    for k in (29, 0, 13, 12):
        for fresh in (batches, MinibatchStream(images, "train", batch_size=9, seed=0)):
            assert torch.equal(fresh.batch(k).x, forwards[k].x)
            assert torch.equal(fresh.batch(k).y, forwards[k].y)
    other = MinibatchStream(images, "train", batch_size=9, seed=1)
    assert not torch.equal(other.batch(0).x, forwards[0].x)


def test_each_image_of_a_minibatch_has_a_turn_of_its_own(make_images: Make) -> None:
    batches = MinibatchStream(make_images(UNEQUAL, **TURNED), "train", batch_size=100, seed=0)
    x = torch.cat([batches.batch(k).x for k in range(40)])
    assert chi_square(torch.bincount(turns_of(x), minlength=4)) < 16.3
    of_one_image = turns_of(x)[rows_of(upright(x)) == 5]  # each epoch turns it anew
    assert len(of_one_image.unique()) == 4


@pytest.mark.parametrize("batch_size", [0, -1, 105])
def test_minibatches_that_cannot_be(make_images: Make, batch_size: int) -> None:
    message = f"batch_size={batch_size} but split 'train' of 'tiny' has 104 images; choose 1 to 104"
    with pytest.raises(InputError, match=message):
        MinibatchStream(make_images(UNEQUAL), "train", batch_size=batch_size, seed=0)


def test_an_algorithm_gets_the_stream_that_it_requests(make_images: Make) -> None:
    images = make_images(UNEQUAL, groups=list("aaaabbbc"))
    requested = Episodes(tasks=3, ways=3, shots=1, queries=2)
    batches = stream(requested, images, "train", seed=4, within_groups=True, device=CPU)
    assert isinstance(batches, EpisodeStream)
    expected = sampler(images, ways=3, shots=1, queries=2, seed=4, within_groups=True)
    assert same(batches.batch(2), expected.sample(6, 3))
    minibatches = stream(Minibatches(batch_size=7), images, "train", seed=4, within_groups=True, device=CPU)
    assert isinstance(minibatches, MinibatchStream)
    assert torch.equal(minibatches.batch(3).x, MinibatchStream(images, "train", batch_size=7, seed=4).batch(3).x)
    with pytest.raises(InputError, match="tasks=0 is below 1"):
        stream(Episodes(tasks=0, ways=3, shots=1, queries=2), images, "train", seed=0, within_groups=False, device=CPU)


@pytest.mark.gpu
def test_cuda_draws_the_same_episodes(make_images: Make) -> None:
    images = make_images(UNEQUAL, groups=list("aaaabbbb"), **TURNED)
    cuda = torch.device("cuda")
    options = {"ways": 3, "shots": 2, "queries": 3, "seed": 0, "within_groups": True}
    ours, theirs = (EpisodeSampler(images, "train", **options, device=d).sample(0, 200) for d in (CPU, cuda))
    for name, mine, other in zip(ours._fields, ours, theirs, strict=True):
        scale = 255 if name.endswith("_x") else 1  # the same pixels: CUDA divides by 255 as a product, an ulp beside
        assert torch.equal((scale * mine).round(), (scale * other.cpu()).round()), name
        torch.testing.assert_close(mine, other.cpu(), rtol=2e-7, atol=0)
    a, b = (MinibatchStream(images, "train", batch_size=9, seed=0, device=d).batch(20) for d in (CPU, cuda))
    torch.testing.assert_close(a.x, b.x.cpu(), rtol=2e-7, atol=0)
    assert torch.equal(a.y, b.y.cpu())


def noise(height: int, width: int, **options: Any) -> ImageSet:
    pixels = torch.randint(256, (32, 3, height, width), generator=torch.Generator().manual_seed(0))
    return ImageSet(
        name="noise", images=pixels.to(torch.uint8), offsets=torch.arange(5) * 8, class_names=list("abcd"),
        groups=["all"] * 4, splits={"train": range(4)}, **options,
    )  # fmt: skip


MOVES = [RandomCrop(padding=2), ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4), RandomHorizontalFlip()]


def test_a_changed_image_depends_on_its_episode_and_place_alone() -> None:
    draws = sampler(noise(5, 6), ways=3, shots=2, queries=2, transforms=MOVES)
    together = draws.sample(0, 12)
    for first, tasks in ((0, 1), (5, 3), (11, 1)):
        for mine, all_of_them in zip(draws.sample(first, tasks), together, strict=True):
            torch.testing.assert_close(mine, all_of_them[first : first + tasks], rtol=0, atol=1e-6)
    for mine, all_of_them in zip(EpisodeStream(draws, 2).batch(3), together, strict=True):
        torch.testing.assert_close(mine, all_of_them[6:8], rtol=0, atol=1e-6)
    plain = sampler(noise(5, 6), ways=3, shots=2, queries=2).sample(0, 12)
    assert torch.equal(plain.classes, together.classes)
    assert not torch.isclose(plain.support_x, together.support_x).flatten(2).all(-1).any()


@dataclass(frozen=True, kw_only=True)
class Level(Transform):
    """Shows what it draws: a picture of one grey level."""

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        return images * 0 + random.uniform(random.mix(keys, keys.new_zeros(())))[:, None, None, None]


class Another(Level):
    pass


@pytest.mark.parametrize("per", ["image", "class"])
def test_draws_are_for_each_image_or_for_each_class_of_a_task(per: str) -> None:
    batch = sampler(noise(2, 2), ways=3, shots=4, queries=2, transforms=[Level(per=per)]).sample(0, 50)
    levels = torch.cat([x[:, :, 0, 0, 0].view(50, 3, -1) for x in (batch.support_x, batch.query_x)], -1)
    assert len(levels.unique()) == (50 * 3 * 6 if per == "image" else 50 * 3)
    if per == "class":
        assert torch.equal(levels, levels[..., :1].expand_as(levels))


def test_two_transforms_draw_apart_from_each_other() -> None:
    def episodes(transform: Transform) -> Tensor:
        draws = sampler(noise(2, 2), ways=3, shots=4, queries=2, transforms=[transform])
        return draws.sample(0, 200).support_x[:, :, 0, 0, 0].flatten()

    def minibatches(transform: Transform) -> Tensor:
        batches = MinibatchStream(noise(2, 2), "train", batch_size=32, seed=0, transforms=[transform])
        return torch.cat([batches.batch(k).x[:, 0, 0, 0] for k in range(75)])

    for levels in (episodes, minibatches):
        one, other = levels(Level()), levels(Another())  # 2400 of each
        assert len(one.unique()) > 2390
        assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.07  # 3.4 standard errors


def test_support_images_are_replaced_by_changed_copies_and_queries_are_not() -> None:
    plain = sampler(noise(6, 6), ways=3, shots=2, queries=2).sample(0, 5)
    options = {"support": [Shift(pixels=1)], "support_copies": 3}
    copied = sampler(noise(6, 6), ways=3, shots=2, queries=2, **options).sample(0, 5)
    assert torch.equal(copied.query_x, plain.query_x) and torch.equal(copied.classes, plain.classes)
    assert copied.support_x.shape == (5, 3 * 2 * 3, 3, 6, 6)
    assert copied.support_y.tolist() == [[0] * 6 + [1] * 6 + [2] * 6] * 5
    seen = set()
    for image, copies in zip(plain.support_x.flatten(0, 1), copied.support_x.view(30, 3, 3, 6, 6), strict=True):
        padded = torch.nn.functional.pad(image, [1] * 4, mode="replicate")
        moves = [padded[:, y : y + 6, x : x + 6] for y in range(3) for x in range(3)]
        hits = [[torch.equal(move, copy) for move in moves] for copy in copies]
        assert all(any(hit) for hit in hits)
        seen.add(tuple(hit.index(True) for hit in hits))
    assert len(seen) > 20  # of 30 triples: the copies of an image differ from each other


def test_the_middle_of_larger_images_is_given_unless_training_cuts_itself() -> None:
    images = noise(7, 9, size=5)
    whole = sampler(noise(7, 9), ways=3, shots=2, queries=2).sample(0, 5)
    batch = sampler(images, ways=3, shots=2, queries=2).sample(0, 5)
    assert images.image_shape == (3, 5, 5)
    assert torch.equal(batch.query_x, whole.query_x[..., 1:6, 2:7])
    cut = sampler(images, ways=3, shots=2, queries=2, transforms=[RandomCrop(size=5)]).sample(0, 5)
    windows = whole.query_x.unfold(-2, 5, 1).unfold(-2, 5, 1)  # [T, M, C, 3, 5, 5, 5]
    hits = (windows == cut.query_x[:, :, :, None, None]).flatten(-2).all(-1).all(2).flatten(2)  # [T, M, 15]
    assert hits.sum(-1).eq(1).all() and hits.any(0).any(0).sum() > 10


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([Shift(pixels=5)], r"Shift\(pixels=5\): these images can be moved by 0 to 4 pixels"),
        ([Shift(pixels=-1)], "can be moved by 0 to 4 pixels"),
        ([ONE_PER_TASK_AND_CLASS], "the images are 5x6; only square ones can be turned"),
        ([CenterCrop(size=4)], "give images of 3x4x4 for a model of 3x5x6; change their sizes"),
        ([Shift(pixels=1), Shift(pixels=2)], r"would draw what Shift\(pixels=1\) draws; use only one"),
    ],
)
def test_transforms_that_cannot_be(transforms: list[Transform], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sampler(noise(5, 6), ways=3, shots=1, queries=1, transforms=transforms)
    with pytest.raises(InputError, match=message):
        MinibatchStream(noise(5, 6), "train", batch_size=2, seed=0, transforms=transforms)


def counts_of(batch: Episode) -> Tensor:
    """Queries of each class: [T, N]."""
    return (batch.query_y[..., None] == torch.arange(batch.ways)).sum(1)


def test_dirichlet_queries_are_complete_and_sorted_by_class(make_images: Make) -> None:
    images = make_images([40] * 8)
    batch = sampler(images, queries=6, dirichlet=2).sample(0, 200)
    assert batch.query_y.shape == (200, 30) and (batch.query_y.diff(dim=1) >= 0).all()
    assert len(counts_of(batch).unique()) > 10, "not uniform"
    support, query = rows_of(batch.support_x), rows_of(batch.query_x)
    of_query = torch.bucketize(query, images.offsets, right=True) - 1
    assert torch.equal(of_query, batch.classes.gather(1, batch.query_y)), "a query of another class"
    for s, q in zip(support.tolist(), query.tolist(), strict=True):
        assert len({*s, *q}) == len(s) + len(q), "an image twice"


def test_dirichlet_shares_have_the_moments_of_the_distribution(make_images: Make) -> None:
    """Mean 1/N, variance (1/N)(1 - 1/N) / (alpha N + 1), and that of rounding, at most 1/12."""
    y = sampler(make_images([130] * 6), queries=3, dirichlet=2, total_queries=100).draw(0, 600).query_y
    counts = (y[..., None] == torch.arange(5)).sum(1).double()
    assert (counts.sum(1) == 100).all()
    torch.testing.assert_close(counts.mean(0), torch.full((5,), 20.0).double(), atol=2.0, rtol=0)
    expected = 100**2 * 0.2 * 0.8 / 11
    torch.testing.assert_close(counts.var(0), torch.full((5,), expected).double(), atol=0.2 * expected, rtol=0)


def test_dirichlet_episodes_do_not_depend_on_the_batch(make_images: Make) -> None:
    drawn = sampler(make_images([40] * 8), dirichlet=2)
    together = drawn.sample(0, 6)
    for k in range(6):
        for alone, all_of_them in zip(drawn.sample(k, 1), together, strict=True):
            assert torch.equal(alone[0], all_of_them[k])


def test_dirichlet_needs_classes_that_could_give_all_queries(make_images: Make) -> None:
    with pytest.raises(InputError, match=r"fewer than shots\+all queries=17 images .*; lower shots or queries"):
        sampler(make_images([16] * 6), dirichlet=2)
    with pytest.raises(InputError, match=r"total_queries=9 must be 1 or more, and needs evaluation\.query_balance"):
        sampler(make_images([40] * 6), total_queries=9)
    with pytest.raises(InputError, match=r"concentration of 0 is below 1; the usual one is 2"):
        sampler(make_images([40] * 6), dirichlet=0)
