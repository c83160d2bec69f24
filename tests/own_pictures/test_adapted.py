"""Own pictures by a run's algorithm: what it learned of the support, and of the support without a picture."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_classifier import PICTURES, made, pictures

from fewshot.errors import InputError
from fewshot.own_pictures.adapted import Adapted
from fewshot.own_pictures.features import FeatureCache

Y = np.array([2, 0, 2, 0, 1, 1])


def adapted(algorithm: str, *words: str) -> Adapted:
    trained: object = SimpleNamespace(algorithm=made(algorithm, *words), pictures=PICTURES)
    return Adapted(trained, device="cpu")  # type: ignore[arg-type]


def embedded(method: Adapted, *levels: int, seed: int = 0) -> np.ndarray:
    return method.embed(np.stack([method.images(Image.fromarray(p)) for p in pictures(*levels, seed=seed)]))


def test_class_means_by_hand_and_without_each_picture() -> None:
    method = adapted("protonet")
    support, query = embedded(method, 200, 10, 220, 20, 120, 110), embedded(method, 15, 130, seed=1)
    assert support.shape == (6, 1, 16)
    judged = method.judge(support, Y, 3, query)

    def scores(support: np.ndarray, y: np.ndarray, query: np.ndarray) -> np.ndarray:
        means = np.stack([support[y == c, 0].mean(0) for c in range(3)])
        return -((query - means) ** 2).sum(-1)

    np.testing.assert_allclose(judged.query, scores(support, Y, query), rtol=1e-4)
    for i in range(6):
        others = np.arange(6) != i
        np.testing.assert_allclose(judged.left_out[[i]], scores(support[others], Y[others], support[[i]]), rtol=1e-4)
    assert judged.near.shape == (2, 3)


@pytest.mark.parametrize("algorithm", ["maml", "ridge"])
def test_others_keep_what_does_not_depend_on_the_task(algorithm: str) -> None:
    method = adapted(algorithm)
    support = embedded(method, 200, 10, 220, 20, 120, 110)
    assert support.dtype == (np.uint8 if algorithm == "maml" else np.float32)
    judged = method.judge(support, Y, 3, support)
    assert judged.left_out.shape == judged.query.shape == (6, 3)
    assert not np.allclose(judged.left_out, judged.query, rtol=1e-3)


def test_a_transductive_algorithm_sees_a_left_out_picture_among_the_queries() -> None:
    method = adapted("bd_cspn")
    support, query = embedded(method, 200, 10, 220, 20, 120, 110), embedded(method, 15, 130, 90, 12, seed=1)
    judged = method.judge(support, Y, 3, query)
    others = np.arange(6) != 4
    state = method.adapt(support[others], Y[others], 3)
    np.testing.assert_allclose(
        judged.left_out[4], method._scores(state, np.concatenate([support[[4]], query]))[0], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("algorithm", "what"), [("protonet", "makes of pictures is"), ("maml", "the scores of 6 of 6")]
)
def test_what_is_not_finite_is_no_answer(algorithm: str, what: str, tmp_path: Path) -> None:
    method = adapted(algorithm)
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for file, pixels in zip(files, pictures(200, 10, 220, 20, 120, 110), strict=True):
        Image.fromarray(pixels).save(file)
    for weight in method.algorithm.parameters():
        weight.data.fill_(float("nan"))
    cache = FeatureCache(tmp_path, {}, method)
    with pytest.raises(InputError, match=what):
        known, _ = cache.look_at(files)
        features = cache.features([one for one in known if one])
        cache.judge(features, Y, 3, features)
