"""Ridge regression on the labels of pictures in several views, in closed form. Layer 4, NumPy alone.

algorithms/ridge.py has it for batches of tasks; here are views, and as many pictures as there may be.

    x = unit(root(z))  of each view; root keeps the sign
    (1)  min_W,b  sum_i w_i |y_i - x_i W - b|^2 + strength |W|^2      y_i one-hot; w_i = 1 / rows of i's class
    (2)  A = rows sqrt(w_i) (x_i - mean_w) = U S V',  e = S^2,  shrink = e / (e + strength)
         H = U shrink U' + sqrt(w) sqrt(w)' / sum(w)                  fitted = H y, both weighted
    (3)  y_b - prediction without b = (I - H_bb)^-1 (y_b - fitted_b)  b: the views of a picture; no refitting
    (4)  the strength of least sum_i w_i |left-out error of row i|^2 over a grid, each row left out alone

e and V come from A A' where there are no more rows than features, else from A' A; U is A V S^-1, made a part at a time:
memory is needed for [D, D] numbers and the scores.

Shapes: features [M, V, D], y [M] int in 0..N-1, all N of them there; scores [M, N], float64.
"""

from collections.abc import Iterable

import numpy as np

from fewshot.own_pictures.unit_features import Array, chunks, unit

GRID = 10 ** np.arange(-4, 1.5, 0.5)  # strengths, as multiples of the mean of A's squared rows


def ridge(features: Array, y: Array, ways: int) -> tuple[Array, Array, Array]:
    """features [M, V, D], y [M] -> weight [D, N] and bias [N] of (1), left-out scores [M, N] by (3)."""
    pictures, views, width = features.shape
    w = 1 / (views * np.bincount(y, minlength=ways))[y][:, None]  # [M, 1], of each row; a class's are 1 in sum
    root, onehot = np.sqrt(w), np.eye(ways)
    cuts = list(chunks(pictures, views * width))
    mean_x = np.zeros(width)
    for cut in cuts:
        mean_x += (w[cut] * unit(features[cut], rooted=True).sum(1)).sum(0) / ways

    def weighted(cut: slice) -> tuple[Array, Array]:
        """A [m V, D], and the labels beside it [m, N], which a picture's views have in common."""
        a = root[cut][..., None] * (unit(features[cut], rooted=True) - mean_x)
        return a.reshape(-1, width), root[cut] * (onehot[y[cut]] - 1 / ways)

    e, to_u, ub = decomposed(map(weighted, cuts), views, dual=pictures * views <= width)
    grid = GRID * max(float(e.sum() / (pictures * views)), 1e-12)
    shrinks = e / (e + grid[:, None])  # [G, R]
    errors = np.zeros(len(grid))
    for cut in cuts:
        a, b = weighted(cut)
        errors += _errors(a @ to_u, b.repeat(views, 0), w[cut].repeat(views, 0) / ways, shrinks, ub)
    shrink = shrinks[int(np.argmin(errors))]  # (4)
    left_out = np.empty((pictures, ways))
    for cut in cuts:
        a, b = weighted(cut)
        u = (a @ to_u).reshape(-1, views, len(e))
        hat = (u * shrink) @ u.transpose(0, 2, 1) + w[cut][..., None] / ways  # [m, V, V]
        wrong = np.linalg.solve(np.eye(views) - hat, b[:, None] - (u * shrink) @ ub)  # (3), times sqrt(w)
        left_out[cut] = onehot[y[cut]] - wrong.mean(1) / root[cut]
    weight = to_u @ (shrink[:, None] * ub)  # V S / (e + strength) U' b
    return weight, 1 / ways - mean_x @ weight, left_out


def decomposed(parts: Iterable[tuple[Array, Array]], views: int, *, dual: bool) -> tuple[Array, Array, Array]:
    """e [R] of (2), V S^-1 [D, R], by which A V S^-1 = U, and U' b [R, N].

    parts: rows of A and their labels, in chunks. dual: there are no more rows than columns; by A A' instead of A' A.
    """
    gram, ab, rows = np.zeros(()), np.zeros(()), list[Array]()
    for a, b in parts:
        ab = ab + a.reshape(len(b), views, -1).sum(1).T @ b  # A' b
        if dual:
            rows.append(a)
        else:
            gram = gram + a.T @ a
    if dual:
        gram = np.concatenate(rows) @ np.concatenate(rows).T
    e, vectors = np.linalg.eigh(gram)
    held = e > e[-1] * np.finfo(float).eps * len(e)  # the others are directions without variance
    e, vectors = e[held], vectors[:, held]
    to_u = np.concatenate(rows).T @ (vectors / e) if dual else vectors / np.sqrt(e)
    return e, to_u, to_u.T @ ab


def _errors(u: Array, b: Array, mean_hat: Array, shrinks: Array, ub: Array) -> Array:
    """(4) of a part of the rows, for G strengths: u [m, R], b [m, N], mean_hat [m, 1], shrinks [G, R] -> [G]."""
    hat = mean_hat + (u * u) @ shrinks.T  # [m, G]
    fitted = (u @ (shrink[:, None] * ub) for shrink in shrinks)
    return np.array([np.square((b - f) / (1 - hat[:, [g]])).sum() for g, f in enumerate(fitted)])
