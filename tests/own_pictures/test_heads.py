"""Heads on features: ridge against its normal equations, solved again for every picture that is left out."""

import numpy as np
import pytest
import torch

from fewshot.algorithms.ridge import fit_ridge
from fewshot.errors import InputError
from fewshot.own_pictures.heads import FOLDS, HEADS, fit, folds
from fewshot.own_pictures.ridge import GRID, decomposed, ridge
from fewshot.own_pictures.unit_features import unit

Array = np.ndarray


def features(sizes: list[int], views: int = 4, width: int = 16) -> tuple[Array, Array]:
    """Classes that are easily told apart, [M, V, D], and their labels."""
    drawn, y = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    return drawn.random((len(sizes), 1, width))[y] + 0.05 * drawn.random((len(y), views, width)), y


@pytest.mark.parametrize("kind", HEADS)
def test_unequal_classes_one_with_a_single_picture(kind: str) -> None:
    z, y = features([1, 5, 3])
    head, left_out = fit(kind, z, y, 3)
    assert (head.scores(z + 0.01).argmax(-1) == y).all()
    assert (left_out.argmax(-1) == y)[1:].all()
    assert not np.allclose(head.scores(z)[1:], left_out[1:], rtol=0, atol=1e-6)  # it did not see itself
    np.testing.assert_allclose(head.scores(z[:, ::-1]), head.scores(z), atol=1e-12)  # views in any order


def solved(x: Array, y: Array, w: Array, strength: float) -> Array:
    """Weights and bias of equation (1), [D + 1, N], by the normal equations."""
    ones = np.concatenate([x, np.ones_like(x[:, :1])], 1)
    penalty = strength * np.eye(ones.shape[1])
    penalty[-1, -1] = 0
    return np.linalg.solve(ones.T @ (w[:, None] * ones) + penalty, ones.T @ (w[:, None] * y))


@pytest.mark.parametrize(("sizes", "width", "views"), [((3, 5, 2), 20, 1), ((4, 3, 5), 30, 2), ((9, 5, 8), 4, 2)])
@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_leaving_out_is_fitting_again(
    sizes: tuple[int, ...], width: int, views: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows than features and fewer, picture by picture and all at once, views that leave together."""
    monkeypatch.setattr("fewshot.own_pictures.unit_features.CHUNK", chunk)
    y = np.repeat(np.arange(3), sizes)
    features = np.random.default_rng(0).normal(size=(len(y), views, width))
    x = unit(features, rooted=True)
    rows, labels = x.reshape(-1, width), y.repeat(views)
    onehot, w = np.eye(3)[labels], 1 / (np.array(sizes)[labels] * views)
    scale = (w[:, None] * np.square(rows - (w[:, None] * rows).sum(0) / w.sum())).sum(1).mean()

    def left_out(strength: float, together: int) -> Array:
        predictions = np.empty((len(rows), 3))
        for first in range(0, len(rows), together):
            stay = np.ones(len(rows), dtype=bool)
            stay[first : first + together] = False
            beta = solved(rows[stay], onehot[stay], w[stay], strength)
            predictions[~stay] = rows[~stay] @ beta[:-1] + beta[-1]
        return predictions

    errors = [(w[:, None] * np.square(onehot - left_out(s, 1))).sum() for s in GRID * scale]
    strength = GRID[int(np.argmin(errors))] * scale
    weight, bias, found = ridge(features, y, 3)
    beta = solved(rows, onehot, w, strength)
    np.testing.assert_allclose(found, left_out(strength, views).reshape(len(y), views, 3).mean(1), atol=1e-10)
    np.testing.assert_allclose(weight, beta[:-1], atol=1e-10)
    np.testing.assert_allclose(bias, beta[-1], atol=1e-10)


def test_rows_and_columns_give_the_same_directions() -> None:
    """By A A' and by A' A: squared singular values, U U', and U' b, with as many rows as columns."""
    a, b = np.random.default_rng(0).normal(size=(12, 12)), np.eye(3)[np.arange(12) % 3]
    (e, to_u, ub), (other, other_to_u, other_ub) = (decomposed([(a, b)], 1, dual=dual) for dual in (True, False))
    np.testing.assert_allclose(e, other, rtol=1e-8)
    for shrink in (1, e / (e + 0.1)):
        hats = [(a @ t * shrink) @ (a @ t).T for t in (to_u, other_to_u)]
        np.testing.assert_allclose(hats[0], hats[1], atol=1e-8)
        np.testing.assert_allclose(a @ to_u * shrink @ ub, a @ other_to_u * shrink @ other_ub, atol=1e-8)


@pytest.mark.parametrize("kind", HEADS)
def test_a_part_at_a_time_gives_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    z, y = features([2, 5, 9])
    whole = fit(kind, z, y, 3)
    monkeypatch.setattr("fewshot.own_pictures.unit_features.CHUNK", 100)
    parts = fit(kind, z, y, 3)
    near = 1e-4 if kind == "logistic" else 1e-10  # Newton's method goes on until the last task of a batch has ended
    np.testing.assert_allclose(whole[1], parts[1], atol=near)
    np.testing.assert_allclose(whole[0].scores(z), parts[0].scores(z), atol=near)


def test_ridge_is_the_algorithms_for_one_task() -> None:
    z, y = features([2, 5, 3], views=1)
    theirs = fit_ridge(*(torch.from_numpy(v)[None] for v in (unit(z, rooted=True)[:, 0], np.eye(3)[y])))
    head, left_out = fit("ridge", z, y, 3)
    np.testing.assert_allclose(head.weight, theirs.weight[0].numpy(), atol=1e-12)
    np.testing.assert_allclose(left_out, theirs.left_out[0].numpy(), atol=1e-12)


def test_nearest_mean_by_hand() -> None:
    z = np.array([[[3.0, 4.0]], [[4.0, 3.0]], [[0.0, 2.0]]])
    head, _ = fit("cosine", z, np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(head.scores(np.array([[[5.0, 5.0]]])), [[1, 0.5**0.5]])
    centred, _ = fit("cl2n", z, np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(centred.centre, [7 / 3, 3])


def test_folds_leave_every_picture_out_once_and_no_class_whole() -> None:
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [1, 2, 30, 9]))
    parts = list(folds(y))
    assert len(parts) == FOLDS
    assert sorted(np.concatenate(parts).tolist()) == [i for i in range(len(y)) if y[i] != 0]
    assert all(set(np.delete(y, part)) == {0, 1, 2, 3} for part in parts)
    assert [len(part) for part in folds(np.array([0, 1, 1, 0]))] == [1] * 4  # few pictures: each alone


def test_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewshot.own_pictures.heads.MOST", 10)
    with pytest.raises(InputError, match="logistic would take hours with 4 pictures of 2 classes; head=ridge takes"):
        fit("logistic", *features([2, 2]), 2)
    with pytest.raises(InputError, match="head=svm is unknown; choose ridge, logistic, cosine or cl2n"):
        fit("svm", *features([2, 2]), 2)
