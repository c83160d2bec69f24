"""Table of the exactness of the meta-gradient: every backbone x norm x order, all tasks at once against a loop.

    python scripts/meta_gradients.py > docs/results/meta_gradients.md

Float64, two inner steps; the largest difference of a parameter tensor (see `fewshot.gradcheck.differences`).
"""

from collections.abc import Callable

import torch
from torch import nn

from fewshot import gradcheck
from fewshot.backbones.conv4 import Conv4
from fewshot.backbones.mlp import MLP
from fewshot.backbones.omniglot_net import OmniglotNet
from fewshot.backbones.torchvision import TorchvisionBackbone
from fewshot.ops.norm import NORMS

SHAPE = (1, 28, 28)
TASKS = 3


def conv4(norm: str, downsampling: str) -> nn.Module:
    return Conv4(
        SHAPE, filters=8, blocks=4, downsampling=downsampling, readout="flatten", norm=norm, norm_scale=True,
        norm_eps=1e-5, activation=nn.ReLU(),
    )  # fmt: skip


def backbones() -> dict[tuple[str, str], Callable[[], nn.Module]]:
    """(backbone, norm) -> how to make it."""
    made: dict[tuple[str, str], Callable[[], nn.Module]] = {}
    for downsampling in ("pool", "stride"):
        made |= {(f"conv4 ({downsampling})", n): lambda n=n, d=downsampling: conv4(n, d) for n in NORMS}
    made |= {("mlp", n): lambda n=n: MLP(SHAPE, widths=[32, 16], norm=n) for n in ("batch", "none")}
    made["omniglot_net", "batch"] = lambda: OmniglotNet(SHAPE)
    made["torchvision resnet18", "batch"] = lambda: TorchvisionBackbone(
        SHAPE, model="resnet18", weights="none", size=None
    )
    return made


def main() -> None:
    print("| backbone | norm | second order | first order |\n|---|---|---|---|")
    for (name, norm), make in backbones().items():
        cells = []
        for first_order in (False, True):
            torch.manual_seed(0)
            maml = gradcheck.as_maml(make(), first_order=first_order)
            found = gradcheck.meta_gradient_differences(maml, gradcheck.random_episode(maml, SHAPE, TASKS))
            cells.append(f"{max(found.values()):.1e}")
        print(f"| {name} | {norm} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
