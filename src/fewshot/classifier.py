"""A classifier for pictures, in scikit-learn's words, from an algorithm that has learned to learn. Layer 4."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fewshot.algorithms.base import Algorithm
from fewshot.engine.runtime import pick_device
from fewshot.errors import FewshotError, InputError
from fewshot.pictures import Pictures

QUERIES = 256  # pictures that are classified at a time, where one does not depend on the others


class Classifier:
    """`fit(images, labels)`, then `predict(images)` and `predict_proba(images)`.

    algorithm: adapts to the labelled pictures as to the support set of one task. pictures: how they are made into
    its images. Images are paths, PIL images or uint8 arrays, of any size; labels are of any type that can be a key.
    Where the algorithm is transductive, all pictures of one call are classified together.
    """

    classes_: np.ndarray  # [N] the labels, in the order of predict_proba's columns

    def __init__(self, algorithm: Algorithm, pictures: Pictures, *, device: str = "auto") -> None:
        self.device = pick_device(device)
        self.algorithm, self.pictures = algorithm.to(self.device).eval(), pictures
        self._state: Any = None

    def fit(self, images: Iterable[Any], labels: Sequence[Hashable]) -> Self:
        """Adapt to M pictures with M labels; classes may have unequal numbers of them.

        InputError where there are not two classes, the numbers differ, a picture cannot be read, or the algorithm's
        head serves another number of classes.
        """
        x, given = self.pictures.read(images), list(labels)
        if len(x) != len(given):
            raise InputError(f"{len(x)} images, but {len(given)} labels; give one label for each image")
        classes = _in_order(given)
        if len(classes) < 2:
            raise InputError(f"all {len(given)} labels are {classes[0]!r}; a classifier needs two classes or more")
        number = {label: n for n, label in enumerate(classes)}
        y = torch.tensor([number[label] for label in given])
        order = y.argsort(stable=True)  # class-major, as everywhere
        with torch.no_grad():
            self._state = self.algorithm.adapt(
                self._floats(x[order]), y[order][None].to(self.device), ways=len(classes)
            )  # one task
        self.classes_ = _as_array(classes)
        return self

    def predict_proba(self, images: Iterable[Any]) -> np.ndarray:
        """[M, N] float64: probability of each class of `classes_`; rows sum to 1.

        FewshotError where a score is not finite, which would otherwise be some class.
        """
        if self._state is None:
            raise InputError("this classifier is not fitted; call fit(images, labels) first")
        x = self.pictures.read(images)
        together = len(x) if self.algorithm.transductive else QUERIES
        with torch.no_grad():
            logits = [self.algorithm.predict(self._state, self._floats(part))[0] for part in x.split(together)]
        scores = torch.cat(logits).double()
        if wrong := int((~scores.isfinite()).any(-1).sum()):
            raise FewshotError(
                f"the scores of {wrong} of {len(x)} pictures are not finite; take another run, other weights or lower "
                "inner rates"
            )
        return scores.softmax(-1).cpu().numpy()

    def predict(self, images: Iterable[Any]) -> np.ndarray:
        """[M] the most probable label of each picture."""
        best = self.predict_proba(images).argmax(1)
        return self.classes_[best]

    def _floats(self, x: Tensor) -> Tensor:
        """[M, C, H, W] uint8 -> one task's images [1, M, C, H, W] float32 in [0, 1]."""
        return x.to(self.device, torch.float32).div_(255)[None]


def _in_order(labels: Sequence[Hashable]) -> list[Hashable]:
    """Each label once: sorted, or as they come where they cannot be compared."""
    once = list(dict.fromkeys(labels))
    try:
        return sorted(once)  # type: ignore[type-var]
    except TypeError:
        return once


def _as_array(classes: Sequence[Hashable]) -> np.ndarray:
    """[N]: numbers and texts as numpy has them, all else as objects (a tuple stays one label)."""
    if len({type(label) for label in classes}) == 1 and isinstance(classes[0], str | int | float | np.generic):
        return np.array(classes)
    array = np.empty(len(classes), dtype=object)
    array[:] = classes
    return array
