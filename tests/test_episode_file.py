"""Episodes in a file: what is written is read again, and nothing else is taken for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewshot.datasets.base import ImageSet
from fewshot.episode_file import share
from fewshot.errors import InputError
from fewshot.sampler import EpisodeSampler
from fewshot.transforms import Shift

Make = Callable[..., ImageSet]


def sampler(images: ImageSet, split: str = "train", **options: Any) -> EpisodeSampler:
    sizes = {"ways": 3, "shots": 2, "queries": 4, "seed": 0}
    return EpisodeSampler(images, split, **(sizes | options))


UNEQUAL = {"ways": {"low": 2, "high": 4}, "shots": {"low": 1, "high": 5, "per": "class"}, "queries": {"rest_of": 9}}


@pytest.mark.parametrize("options", [{}, {"dirichlet": 2}, {"transforms": [Shift(pixels=1)]}, UNEQUAL])
def test_what_was_written_is_read_again(make_images: Make, tmp_path: Path, options: dict[str, Any]) -> None:
    images, file = make_images([20] * 6), tmp_path / "new" / "episodes.npz"
    plain = sampler(images, **options).sample(0, 7)
    first = sampler(images, **options)
    share(file, first, images, 7)
    other = sampler(images, seed=5, **({k: v for k, v in options.items() if k != "transforms"}))
    share(file, other, images, 7)
    assert other.given_from == first.given_from and other.query_balance == "as in the file"
    again = sampler(images, **options)
    share(file, again, images, 7)
    for wanted, found in zip(plain.unpadded(), again.sample(0, 7).unpadded(), strict=True):
        assert all(torch.equal(*both) for both in zip(wanted, found, strict=True))
    assert torch.equal(other.sample(3, 2).classes, plain.classes[3:5]), "its own were drawn"


def test_another_librarys_file_may_have_its_queries_in_any_order(make_images: Make, tmp_path: Path) -> None:
    images, file = make_images([20] * 6), tmp_path / "episodes.npz"
    share(file, sampler(images), images, 3)
    content = dict(np.load(file))
    order = np.random.default_rng(0).permutation(12)
    content["query"], content["query_y"] = content["query"][:, order], content["query_y"][:, order]
    np.savez(file, **content)
    given = sampler(images)
    share(file, given, images, 3)
    found, own = given.sample(0, 3), sampler(images).sample(0, 3)
    assert torch.equal(found.query_y, own.query_y) and torch.equal(found.support_x, own.support_x)
    rows = [batch.query_x.flatten(2).sort(1).values for batch in (found, own)]
    assert torch.equal(*rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "other"}, r"is of \{'dataset': 'other'.*this run's data are \{'dataset': 'tiny'"),
        ({"classes": np.zeros((3, 3), np.int64)}, r"image \d+ is not of the class that the file says"),
        ({"classes": np.full((3, 3), 99)}, r"class 99 is not in the split that is tested"),
        ({"query": np.zeros((3, 12), np.int64)}, r"image 0 is not of the class"),
        (
            {"support": np.zeros((3, 3, 2))},
            r"holds no episodes: support is float64 \[3, 3, 2\], expected whole numbers",
        ),
        (
            {"query": np.zeros(3, np.int64)},
            r"holds no episodes: query is int64 \[3\], expected whole numbers in 2 axes",
        ),
        ({"query_y": np.array(3)}, r"holds no episodes: too many indices"),
        ({"support": np.zeros((3, 3, 1), np.int64)}, r"in all \[3, 3, 1, 12\], this run asks for \[3, 3, 2, 12\]"),
    ],
)
def test_what_does_not_fit_is_refused(make_images: Make, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    images, file = make_images([20] * 6), tmp_path / "episodes.npz"
    share(file, sampler(images), images, 3)
    np.savez(file, **(dict(np.load(file)) | change))
    with pytest.raises(InputError, match=message):
        share(file, sampler(images), images, 3)


def test_unequal_episodes_say_what_they_lack_at_their_ends(make_images: Make, tmp_path: Path) -> None:
    images, file = make_images([20] * 6), tmp_path / "episodes.npz"
    share(file, sampler(images, **UNEQUAL), images, 20)
    content = dict(np.load(file))
    assert {
        key: int((content[key] == -1).sum() > 0) for key in ("classes", "support", "query", "query_y")
    } == dict.fromkeys(("classes", "support", "query", "query_y"), 1)
    with pytest.raises(InputError, match=r"has episodes of unequal size, this run's are of one; give shots, ways"):
        share(file, sampler(images, ways=4, shots=5, queries=8), images, 20)
    np.savez(file, **(content | {"support": content["support"][..., ::-1]}))
    with pytest.raises(InputError, match=r"-1, for what an episode does not have, stands at the end of `support` and"):
        share(file, sampler(images, **UNEQUAL), images, 20)


def test_too_few_episodes_and_no_episodes_are_refused(make_images: Make, tmp_path: Path) -> None:
    images, file = make_images([20] * 6), tmp_path / "episodes.npz"
    share(file, sampler(images), images, 3)
    with pytest.raises(InputError, match=r"in all \[3, 3, 2, 12\], this run asks for \[4, 3, 2, 12\]"):
        share(file, sampler(images), images, 4)
    content = dict(np.load(file))
    np.savez(file, **content | {"query": content["query"][:, [0, 0, *range(2, 12)]]})
    with pytest.raises(InputError, match=r"an episode has an image twice"):
        share(file, sampler(images), images, 3)
    start = images.offsets[content["classes"][0, 0]].item()
    content["classes"][0] = content["classes"][0, 0]
    content["query_y"][0] = 0
    content["support"][0], content["query"][0] = start + np.arange(6).reshape(3, 2), start + np.arange(6, 18)
    np.savez(file, **content)
    with pytest.raises(InputError, match=r"an episode has a class twice"):
        share(file, sampler(images), images, 3)
    for damaged in (b"", b"no archive", file.read_bytes()[:200]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"holds no episodes"):
            share(file, sampler(images), images, 3)
    for other, message in (
        (tmp_path / "a.npy", "let it end in .npz"),
        (file / "b.npz", "cannot write evaluation.epis"),
    ):
        with pytest.raises(InputError, match=message):
            share(other, sampler(images), images, 3)
