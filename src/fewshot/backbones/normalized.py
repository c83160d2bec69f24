"""Normalisation of images as the first layer of a network. Layer 1."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.errors import InputError

Statistics = Mapping[str, Sequence[float]]  # mean and std, a number for each channel


class Normalized(nn.Module):
    """[B, C, H, W] float32 in [0, 1] -> what `network` makes of (x - mean) / std, [B, out_features].

    mean, std: of each channel. They are no part of the state dict: a checkpoint keeps them in its context.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.statistics = {"mean": list(mean), "std": list(std)}
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)  # [C, 1, 1]
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @property
    def out_features(self) -> int:
        return self.network.out_features  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.std)


def normalized(backbone: nn.Module, statistics: Statistics | None) -> nn.Module:
    """The backbone behind its normalisation; as it is where there is nothing to normalise, or it does so itself."""
    if statistics is None or getattr(backbone, "normalizes", False):
        return backbone
    return Normalized(backbone, statistics["mean"], statistics["std"])


def stated(backbone: Any) -> dict[str, list[float]] | str | None:
    """What a protocol says of a network's normalisation."""
    if isinstance(backbone, Normalized):
        return backbone.statistics
    return "the backbone's own" if getattr(backbone, "normalizes", False) else None


def _numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value)


def chosen_statistics(wanted: Any, dataset: Statistics | None, channels: int) -> dict[str, list[float]] | None:
    """The meaning of `normalize`: dataset | none | {mean: [...], std: [...]}; `dataset` are those of the data set."""
    if wanted == "dataset":
        return {key: list(dataset[key]) for key in ("mean", "std")} if dataset else None
    if wanted in (None, "none"):
        return None
    lists = isinstance(wanted, Mapping) and set(wanted) == {"mean", "std"} and all(map(_numbers, wanted.values()))
    if not lists:
        raise InputError(f"normalize={wanted} is unknown; use dataset, none or {{mean: [...], std: [...]}}")
    values = {key: [float(v) for v in wanted[key]] for key in ("mean", "std")}
    if {len(v) for v in values.values()} != {channels} or min(values["std"]) <= 0:
        raise InputError(
            f"normalize={wanted} for images of {channels} channels; it needs {channels} numbers each, std above 0"
        )
    return values
