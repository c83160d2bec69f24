"""Own pictures by a pre-trained network and a head on its features. Layer 2.

torch and the network are only had where a picture is new: `judge` works on features with NumPy.
"""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fewshot.errors import check_choice
from fewshot.feature_heads import HEADS
from fewshot.prediction import Judged, by_head
from fewshot.views import Size, views

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

    def images(self, picture: Any) -> np.ndarray:
        """The picture's views: PIL image -> [V, 3, S, S] uint8."""
        shown: Any = self.network.input
        return views(picture, Size(shown.size, shown.resize), shown.interpolation)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """[B, V, 3, S, S] uint8 -> [B, V, D] float32."""
        import torch

        shown: Any = self.network.input
        x = torch.from_numpy(images.reshape(-1, *images.shape[2:])).to(shown.mean.device, torch.float32) / 255
        with torch.no_grad():
            z = self.network(x.contiguous(memory_format=torch.channels_last))  # [B V, D]
        return z.float().cpu().numpy().reshape(*images.shape[:2], -1)

    def judge(self, support: np.ndarray, y: np.ndarray, ways: int, query: np.ndarray) -> Judged:
        """support [M, V, D], y [M] in 0..N-1, query [P, V, D]."""
        return by_head(self.head, support, y, ways, query)
