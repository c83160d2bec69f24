"""fit, predict, predict_proba, classes_: what an episode gives, for labels and pictures of any kind."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from composed import compose
from torch import nn

from fewshot.algorithms.maml import MAML
from fewshot.algorithms.protonet import ProtoNet
from fewshot.assemble import make_algorithm
from fewshot.classifier import Classifier
from fewshot.errors import FewshotError, InputError
from fewshot.pictures import Pictures

SIDE = 4
PICTURES = Pictures(image_shape=(1, SIDE, SIDE), side=SIDE)


class Pixels(nn.Module):
    """[B, 1, H, W] -> [B, H*W]: the embedding is the image."""

    out_features = SIDE * SIDE

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) * self.weight


def made(algorithm: str, *words: str, ways: int = 3) -> Any:
    """The algorithm as the command line makes it, on pixels."""
    config = compose("config", [f"algorithm={algorithm}", f"ways={ways}", "backbone=mlp", *words]).config
    config["backbone"] = {"_target_": f"{__name__}.Pixels"}
    return make_algorithm(config, {"image_shape": [1, SIDE, SIDE], "train_classes": 5}, 0)


def pictures(*levels: int, seed: int = 0) -> np.ndarray:
    """Images around these levels of grey, each with a pattern of its own level."""
    noise = np.random.default_rng(seed).integers(-9, 10, (len(levels), SIDE, SIDE))
    return (np.array(levels)[:, None, None] + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture
def protonet() -> ProtoNet:
    return made("protonet")


def test_nearest_class_mean_with_unequal_numbers(protonet: ProtoNet) -> None:
    """By hand: each class's mean counts its own pictures only, and classes may come in any order."""
    x, y = pictures(10, 200, 20, 220, 30, 120), ["dark", "light", "dark", "light", "dark", "mid"]
    classifier = Classifier(protonet, PICTURES, device="cpu").fit(x, y)
    assert classifier.classes_.tolist() == ["dark", "light", "mid"]
    z = x.reshape(6, -1).astype(np.float64) / 255
    means = np.stack([z[[0, 2, 4]].mean(0), z[[1, 3]].mean(0), z[5]])
    query = pictures(15, 130, 250, 90, seed=1)
    logits = -((query.reshape(4, 1, -1) / 255 - means) ** 2).sum(-1)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = classifier.predict_proba(query)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found.dtype == np.float64
    assert classifier.predict(query).tolist() == ["dark", "mid", "light", "mid"]


@pytest.mark.parametrize("algorithm", ["protonet", "maml", "baseline", "ridge"])
def test_the_order_of_the_pictures_does_not_matter(algorithm: str) -> None:
    classifier = Classifier(made(algorithm), PICTURES, device="cpu")
    x, y = pictures(10, 200, 20, 220, 30, 120), np.array([3, 1, 3, 1, 3, 2])
    query = pictures(15, 130, 250, seed=1)
    first = classifier.fit(x, y).predict_proba(query)
    order = np.array([4, 5, 0, 3, 1, 2])
    second = classifier.fit(x[order], y[order]).predict_proba(query)
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(first.sum(1), 1)


def test_many_queries_are_those_one_by_one(protonet: ProtoNet, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Classifier(protonet, PICTURES, device="cpu").fit(pictures(10, 200), [0, 1])
    query = pictures(*range(0, 250, 25), seed=1)
    whole = classifier.predict_proba(query)
    monkeypatch.setattr("fewshot.classifier.QUERIES", 3)
    np.testing.assert_allclose(classifier.predict_proba(query), whole, rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([2, 10, 2], [2, 10]),
        (["b", "a", "b"], ["a", "b"]),
        ([("x", 1), ("a", 2), ("x", 1)], [("a", 2), ("x", 1)]),
        (["one", 1, "one"], ["one", 1]),
        ([None, 1.5, None], [None, 1.5]),
        ([True, False, True], [False, True]),
    ],
)
def test_labels_of_any_kind(protonet: ProtoNet, labels: list[Any], classes: list[Any]) -> None:
    classifier = Classifier(protonet, PICTURES, device="cpu").fit(pictures(10, 200, 20), labels)
    assert list(classifier.classes_) == classes
    assert [classifier.predict(pictures(level))[0] for level in (10, 200)] == labels[:2]


def test_refused(protonet: ProtoNet) -> None:
    classifier = Classifier(protonet, PICTURES, device="cpu")
    for act, message in (
        (lambda: classifier.predict(pictures(1)), "this classifier is not fitted; call fit(images, labels) first"),
        (lambda: classifier.fit(pictures(1, 2), ["a"]), "2 images, but 1 labels; give one label for each image"),
        (lambda: classifier.fit(pictures(1, 2), ["a", "a"]), "all 2 labels are 'a'; a classifier needs two classes"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            act()


def test_scores_that_are_not_finite_are_no_class(protonet: ProtoNet) -> None:
    classifier = Classifier(protonet, PICTURES, device="cpu").fit(pictures(10, 200), ["a", "b"])
    classifier._state = classifier._state * math.nan
    with pytest.raises(FewshotError, match="the scores of 1 of 1 pictures are not finite; take another run"):
        classifier.predict(pictures(1))


def test_a_head_that_serves_other_ways() -> None:
    maml = made("maml", ways=5)
    assert isinstance(maml, MAML)
    with pytest.raises(InputError, match=r"ways=2, but this head was learned for ways=5; evaluate with ways=5, or "):
        Classifier(maml, PICTURES, device="cpu").fit(pictures(10, 200), [0, 1])
