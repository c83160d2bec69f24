"""Draws that are functions of their counters: right, distinct, uniform, and never silently other ones."""

import itertools

import pytest
import torch
from torch import Tensor

from fewshot.ops import random

U64 = (1 << 64) - 1


def splitmix64(key: int, counter: int) -> int:
    """Steele, Lea & Flood 2014 in Python's own integers, as a signed number."""
    x = (key + (counter + 1) * 0x9E3779B97F4A7C15) & U64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & U64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & U64
    x ^= x >> 31
    return x - (1 << 64) if x >> 63 else x


def chi_square(counts: Tensor) -> float:
    expected = counts.double().mean()
    return float(((counts - expected) ** 2 / expected).sum())


def keys(n: int) -> Tensor:
    return random.mix(random.key(0, "test"), torch.arange(n))


def test_published_outputs_of_splitmix64() -> None:
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # of seed 0
    assert [x & U64 for x in random.mix(0, torch.arange(3)).tolist()] == published


@pytest.mark.parametrize("key", [0, 1, -1, (1 << 63) - 1, -(1 << 63)])
def test_mix_is_splitmix64_for_any_key(key: int) -> None:
    counters = [-2, -1, 0, 1, 7, 1 << 40]
    assert random.mix(key, torch.tensor(counters)).tolist() == [splitmix64(key, c) for c in counters]


def test_mix_broadcasts() -> None:
    key, counter = torch.tensor([[3], [4]]), torch.tensor([0, 1, 2])
    expected = [[splitmix64(k, c) for c in range(3)] for k in (3, 4)]
    assert random.mix(key, counter).tolist() == expected


def test_keys_of_streams_never_change() -> None:
    assert random.key(0, "train", "episodes") == 8454318769562598024
    assert random.key(1, "test", "minibatches") == 1091683550182215279


def test_keys_differ_by_seed_and_by_name() -> None:
    made = [random.key(s, *w) for s in range(3) for w in (("train", "a"), ("val", "a"), ("train", "b"))]
    assert len(set(made)) == len(made)
    assert all(0 <= key < 1 << 63 for key in made)


def test_below_reaches_both_ends_and_no_further() -> None:
    bits = torch.tensor([0, -1, 1 << 62, -(1 << 63)])  # none, all, a quarter, a half of the range
    assert random.below(bits, 10).tolist() == [0, 9, 2, 5]
    assert random.below(bits[1], 2**31 - 1).item() == 2**31 - 2
    assert random.below(bits[1].expand(3), torch.tensor([1, 2, 50])).tolist() == [0, 1, 49]


def test_below_is_uniform() -> None:
    drawn = random.below(keys(50_000), 50)
    assert chi_square(torch.bincount(drawn, minlength=50)) < 90  # 49 degrees of freedom: p = 3e-4


def test_distinct_numbers_are_distinct_and_below_the_bound() -> None:
    for bound, draws in ((5, 5), (6, 5), (20, 6), (1_000_000, 30), (1, 1)):
        drawn = random.distinct(keys(300), bound, draws)
        assert drawn.shape == (300, draws)
        assert int(drawn.min()) >= 0
        assert int(drawn.max()) < bound
        assert (drawn.sort(-1).values.diff(dim=-1) > 0).all()


def test_distinct_takes_a_bound_per_row() -> None:
    bound = torch.tensor([[3, 10], [100, 4]])
    drawn = random.distinct(keys(4).view(2, 2), bound, 3)
    assert drawn.shape == (2, 2, 3)
    for i, j in itertools.product(range(2), range(2)):
        alone = random.distinct(keys(4)[2 * i + j], int(bound[i, j]), 3)
        assert drawn[i, j].tolist() == alone.tolist()
    many = random.distinct(keys(4000), torch.tensor([3, 9]).repeat(2000), 3)
    assert set(many[::2].flatten().tolist()) == set(range(3))
    assert set(many[1::2].flatten().tolist()) == set(range(9))


@pytest.mark.parametrize(("bound", "draws"), [(3, 3), (4, 3), (7, 2)])
def test_every_ordered_choice_is_equally_likely(bound: int, draws: int) -> None:
    choices = list(itertools.permutations(range(bound), draws))
    drawn = random.distinct(keys(400 * len(choices)), bound, draws)
    code = (drawn * bound ** torch.arange(draws)).sum(-1)
    counts = torch.bincount(code, minlength=bound**draws)
    assert int((counts > 0).sum()) == len(choices)
    freedom = len(choices) - 1
    assert chi_square(counts[counts > 0]) < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.gpu
def test_cuda_draws_the_same_numbers() -> None:
    bound = torch.arange(20, 1020)
    ours = random.distinct(keys(1000), bound, 15)
    theirs = random.distinct(keys(1000).cuda(), bound.cuda(), 15)
    assert torch.equal(ours, theirs.cpu())


def test_dirichlet_shares_sum_to_one_and_have_its_mean_and_variance() -> None:
    shares = random.dirichlet(torch.arange(20000), 4, 3)
    torch.testing.assert_close(shares.sum(-1), torch.ones(20000).double())
    torch.testing.assert_close(shares.mean(0), torch.full((4,), 0.25).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(shares.var(0), torch.full((4,), 0.25 * 0.75 / 13).double(), rtol=0.05, atol=0)


def test_rounding_by_largest_remainders() -> None:
    shares = torch.tensor([[0.5, 0.3, 0.2], [0.34, 0.33, 0.33], [1.0, 0.0, 0.0]]).double()
    assert random.rounded(shares, 4).tolist() == [[2, 1, 1], [2, 1, 1], [4, 0, 0]]
    shares = random.dirichlet(torch.arange(500), 5, 2)
    counts = random.rounded(shares, 75)
    assert (counts.sum(-1) == 75).all() and (counts >= 0).all() and ((counts - 75 * shares).abs() < 1).all()
