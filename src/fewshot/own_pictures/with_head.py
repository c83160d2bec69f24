"""Own pictures by a pre-trained network and a head on its features. Layer 4.

torch and the network are only had where a picture is new: `judge` works on features with NumPy.
"""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fewshot.errors import check_choice
from fewshot.own_pictures.heads import HEADS, fit
from fewshot.own_pictures.scores import Judged, nearest
from fewshot.own_pictures.views import side_for, squeezed, views

if TYPE_CHECKING:
    from torch import nn


class WithHead:
    """make: gives the network, which has an `input` (backbones.image_input.ImageInput). head: one of `HEADS`."""

    def __init__(self, make: Callable[[], "nn.Module"], *, head: str, device: str) -> None:
        check_choice("head", head, HEADS)
        self.make, self.head, self.device = make, head, device

    @cached_property
    def network(self) -> "nn.Module":
        """On its device, in eval mode; made when it is first needed."""
        import torch

        from fewshot.engine.runtime import pick_device

        network = self.make().to(pick_device(self.device), memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network.eval()

    @property
    def input(self) -> Any:
        """The network's `ImageInput`."""
        return self.network.input

    def images(self, picture: Any) -> np.ndarray:
        """PIL image -> [3, S, S] uint8, squeezed into a square."""
        return squeezed(picture, side_for(self.input.size), self.input.interpolation)

    @property
    def rules(self) -> dict[str, Any]:
        """How a picture becomes an image, in the words of `exported.py`."""
        side, shown = side_for(self.input.size), self.input
        return {
            "size": [side, side], "mode": "RGB", "resize": side, "fit": "squash", "interpolation": shown.interpolation,
            "inverted": False, "mean": shown.mean.flatten().tolist(), "std": shown.std.flatten().tolist(),
        }  # fmt: skip

    def embed(self, images: np.ndarray) -> np.ndarray:
        """[B, 3, S, S] uint8 -> [B, V, D] float32."""
        import torch

        x = torch.from_numpy(images).to(self.input.mean.device).float() / 255
        shown = views(x, self.input.size)  # [B, V, 3, size, size]
        with torch.no_grad():
            z = self.network(shown.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        return z.float().unflatten(0, (-1, shown.shape[1])).cpu().numpy()

    def judge(self, support: np.ndarray, y: np.ndarray, ways: int, query: np.ndarray) -> Judged:
        """support [M, V, D], y [M] in 0..N-1, query [P, V, D]."""
        head, left_out = fit(self.head, support, y, ways)
        return Judged(left_out, head.scores(query), nearest(query, support))

    def fitted(self, support: np.ndarray, y: np.ndarray, ways: int) -> "nn.Module":
        """What was learned: [B, 3, S, S] float32 in [0, 1] -> scores [B, N]."""
        from fewshot.own_pictures.fitted import HeadOnNetwork

        return HeadOnNetwork(self.network, fit(self.head, support, y, ways)[0])
