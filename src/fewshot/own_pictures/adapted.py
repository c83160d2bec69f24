"""Own pictures by a run's algorithm: it adapts to the support pictures as to those of one task. Layer 4.

Of a picture is kept what does not depend on the task: its embedding where the algorithm's features are fixed, else
(MAML) the image itself. The accuracy is estimated by adapting again without each of up to 20 folds.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewshot.backbones.image_input import ImageInput
from fewshot.backbones.normalized import Normalized
from fewshot.engine.runtime import pick_device
from fewshot.errors import InputError
from fewshot.ops.task_network import TaskNetwork
from fewshot.own_pictures.fitted import OfAlgorithm
from fewshot.own_pictures.heads import by_folds
from fewshot.own_pictures.scores import Judged, most_alike
from fewshot.own_pictures.unit_features import unit
from fewshot.trained import Trained

QUERIES = 256  # pictures that are classified at a time, where one does not depend on the others


class Adapted:
    """A run's algorithm as a method for own pictures (`features.Method`)."""

    def __init__(self, trained: Trained, *, device: str) -> None:
        self.device, self.pictures = pick_device(device), trained.pictures
        self.algorithm = trained.algorithm.to(self.device).eval()
        self.fixed = self.algorithm.fixed_features
        self.on = self.algorithm.on_features() if self.fixed else self.algorithm

    def images(self, picture: Any) -> np.ndarray:
        """As the run's data set made its images: PIL image -> [C, H, W] uint8."""
        return self.pictures.read([picture])[0].numpy()

    @property
    def rules(self) -> dict[str, Any]:
        """How a picture becomes an image, in the words of `exported.py`."""
        told, (channels, height, width) = self.pictures, self.pictures.image_shape
        normal = next((m for m in self.algorithm.modules() if isinstance(m, Normalized | ImageInput)), None)
        mean, std = (getattr(normal, name).flatten().tolist() if normal else None for name in ("mean", "std"))
        named = {"antialias": "lanczos", "nearest": "nearest", "bicubic": "bicubic"}
        return {
            "size": [height, width], "mode": "RGB" if channels == 3 else "L", "resize": told.side, "fit": told.fit,
            "interpolation": named.get(told.resize or "", "bilinear"), "inverted": told.inverted,
            "mean": mean, "std": std,
        }  # fmt: skip

    def embed(self, images: np.ndarray) -> np.ndarray:
        """[B, C, H, W] uint8 -> [B, 1, D] float32, or as it is, [B, 1, C, H, W], where the network adapts to a task."""
        if not self.fixed:
            return images[:, None]
        with torch.no_grad():
            return self.algorithm.features(None, self._task(images[:, None]))[0, :, None].cpu().numpy()

    def judge(self, support: np.ndarray, y: np.ndarray, ways: int, query: np.ndarray) -> Judged:
        """support [M, 1, ...] and query [P, 1, ...] as `embed` gives them, y [M] in 0..N-1.

        A transductive algorithm judges all queries together, and a left-out picture among them.
        InputError where the algorithm's head serves another number of classes.
        """
        together = self.algorithm.transductive

        def scores(support: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
            state = self.adapt(support, y, ways)
            if together and asked is not query:
                return self._scores(state, np.concatenate([asked, query]))[: len(asked)]
            return self._scores(state, asked)

        with torch.no_grad():
            state = self.adapt(support, y, ways)
            near = most_alike(self._features(state, query), self._features(state, support))
        return Judged(by_folds(scores, support, y, ways), self._scores(state, query), near)

    def adapt(self, support: np.ndarray, y: np.ndarray, ways: int) -> Any:
        """The state of one task."""
        order = np.argsort(y, kind="stable")  # class-major, as everywhere
        labels = torch.from_numpy(y[order])[None].to(self.device)
        try:
            with torch.no_grad():
                return self.on.adapt(self._task(support[order]), labels, ways=ways)
        except InputError as error:
            raise InputError(f"support has {ways} classes: {error}") from error

    def fitted(self, support: np.ndarray, y: np.ndarray, ways: int) -> nn.Module:
        """What was learned: [B, C, H, W] float32 in [0, 1] -> scores [B, N]; of MAML, its adapted copy.

        InputError for a transductive algorithm, whose answer for a picture depends on the others.
        """
        network = getattr(self.algorithm, "network", None)
        if self.algorithm.transductive:
            fix = "; add algorithm.norm_statistics=support" if isinstance(network, TaskNetwork) else ""
            raise InputError(f"{type(self.algorithm).__name__} judges all queries together and cannot be exported{fix}")
        state = self.adapt(support, y, ways)
        if isinstance(network, TaskNetwork):
            return network.copy_of(state)
        return OfAlgorithm(self.algorithm, state)

    def _scores(self, state: Any, query: np.ndarray) -> np.ndarray:
        size = len(query) if self.algorithm.transductive else QUERIES
        parts = [query[first : first + size] for first in range(0, len(query), size)]
        with torch.no_grad():
            return np.concatenate(
                [self.on.predict(state, self._task(part))[0].double().cpu().numpy() for part in parts]
            )

    def _features(self, state: Any, x: np.ndarray) -> np.ndarray:
        """[M, D] float32 of length 1."""
        parts = [x[first : first + QUERIES] for first in range(0, len(x), QUERIES)]
        found = [self.on.features(state, self._task(part))[0].cpu().numpy() for part in parts]
        return np.concatenate([unit(part, rooted=False).astype(np.float32) for part in found])

    def _task(self, x: np.ndarray) -> Tensor:
        """[M, 1, ...] -> [1, M, ...]: images in [0, 1], or features as they are."""
        t = torch.from_numpy(x[:, 0])[None].to(self.device)
        return t.float().div_(255) if t.dtype == torch.uint8 else t
