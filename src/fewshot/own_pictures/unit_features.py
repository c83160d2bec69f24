"""Features of pictures as heads see them: of unit length, a part of the pictures at a time. Layer 4, NumPy alone.

Features [M, V, D] of M pictures in V views may be more than memory holds as float64 (features.py leaves large ones
on disk), so whoever works on all of them goes through `chunks`.
"""

from collections.abc import Iterator

import numpy as np

CHUNK = 1 << 22  # numbers that are worked on at a time: 32 MB
Array = np.ndarray


def unit(z: Array, *, rooted: bool, centre: Array | float = 0.0) -> Array:
    """[..., D] float64 of length 1, or 0 where it is 0."""
    z = z.astype(np.float64) - centre
    if rooted:
        z = np.sign(z) * np.sqrt(np.abs(z))
    return z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-12)


def mean_view(features: Array, rows: Array, *, rooted: bool, centre: Array | float = 0.0) -> Array:
    """x of the pictures `rows` of [M, V, D], the mean over their views: [len(rows), D] float64."""
    return np.concatenate(
        [unit(features[rows[cut]], rooted=rooted, centre=centre).mean(1) for cut in chunks(len(rows), features[0].size)]
    )


def chunks(count: int, numbers: int) -> Iterator[slice]:
    """Cuts `count` rows of so many numbers each into parts of CHUNK numbers, or of one row."""
    step = max(1, CHUNK // numbers)
    for first in range(0, count, step):
        yield slice(first, first + step)
