"""Counter-based random draws: a number is a function of its counters alone. Layer 0.

No generator, no state: episode k gets the same draw whoever asks, in whatever batch, on the CPU or on CUDA.
The hash is the finaliser of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number
generators"), applied once per counter; int64 arithmetic wraps, which is what the hash wants.
"""

import hashlib

import torch
from torch import Tensor


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant


_GAMMA, _M1, _M2 = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(key: Tensor | int, counter: Tensor) -> Tensor:
    """64 random bits for each (key, counter): int64, broadcast shape of the two."""
    x = (counter + 1) * _GAMMA + key
    x = (x ^ _shift(x, 30)) * _M1
    x = (x ^ _shift(x, 27)) * _M2
    return x ^ _shift(x, 31)


def key(seed: int, *words: str) -> int:
    """A 63-bit key from a seed and the names of a stream, such as ("test", "episodes")."""
    text = ":".join([str(seed), *words])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def below(bits: Tensor, bound: Tensor | int) -> Tensor:
    """Random bits -> int64 in 0..bound-1 (bound < 2**31); off uniform by less than bound / 2**32."""
    return (_shift(bits, 32) * bound) >> 32


def uniform(bits: Tensor) -> Tensor:
    """Random bits -> float32 in [0, 1), a multiple of 2**-24: the same on every device."""
    return _shift(bits, 40).to(torch.float32) * 2**-24


def distinct(keys: Tensor, bound: Tensor | int, draws: int) -> Tensor:
    """`draws` distinct numbers below `bound` in random order, for each key.

    keys: [...] int64, one per set; bound: int or int64 tensor like keys, at least `draws`.
    Returns [..., draws] int64. Floyd's algorithm (Bentley & Floyd 1987) draws the set, sorting by random
    keys then makes every order equally likely; the cost does not depend on the bound.
    """
    bound = torch.full_like(keys, bound) if isinstance(bound, int) else bound  # a GPU need not fetch it from here
    counters = torch.arange(2 * draws, device=keys.device)
    bits = mix(keys[..., None], counters)  # [..., 2 * draws]
    chosen = torch.full((*keys.shape, draws), -1, dtype=torch.int64, device=keys.device)
    for i in range(draws):
        last = bound - draws + i
        pick = below(bits[..., i], last + 1)
        taken = (chosen == pick[..., None]).any(-1)
        chosen[..., i] = torch.where(taken, last, pick)
    return chosen.gather(-1, bits[..., draws:].argsort(-1))


def dirichlet(keys: Tensor, parts: int, concentration: int) -> Tensor:
    """Shares that sum to 1, for each key: [...] int64 -> [..., parts] float64, symmetric Dirichlet.

    A share is a gamma variable over the sum of all, which is the sum of `concentration` exponential ones.
    """
    counters = torch.arange(parts * concentration, device=keys.device)
    bits = _shift(mix(keys[..., None], counters), 11).to(torch.float64)
    exponential = -((bits + 0.5) * 2.0**-53).log()  # uniform in (0, 1)
    gamma = exponential.unflatten(-1, (parts, concentration)).sum(-1)
    return gamma / gamma.sum(-1, keepdim=True)


def rounded(shares: Tensor, total: int) -> Tensor:
    """Whole numbers that sum to `total`, by largest remainders: shares [..., N] that sum to 1 -> int64 [..., N]."""
    exact = shares * total
    whole = exact.floor()
    left = total - whole.sum(-1, keepdim=True)
    rank = (exact - whole).argsort(dim=-1, descending=True, stable=True).argsort(-1)
    return (whole + (rank < left)).long()
