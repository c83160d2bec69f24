"""What result.json says beside the numbers."""

import pytest
from torch import nn

from fewshot.algorithms.base import Algorithm
from fewshot.record import backbone_facts, timing, val_facts
from fewshot.trainer import Progress


class Net(Algorithm):
    def __init__(self, backbone: nn.Module | None) -> None:
        super().__init__()
        if backbone is not None:
            self.backbone = backbone
        self.head = nn.Linear(3, 2)


def test_a_network_is_told_by_name_weights_and_image_size() -> None:
    """The head is not the network's: two algorithms with one backbone have the same."""
    assert backbone_facts(Net(nn.Linear(4, 3)), "mine", [1, 2, 2]) == {
        "name": "mine", "parameters": 15, "image_size": [1, 2, 2],
    }  # fmt: skip
    assert backbone_facts(Net(None), "none", [1, 2, 2])["parameters"] == 0


def test_the_best_validation() -> None:
    config = {"evaluation": {"val_split": "val", "val_episodes": 9}}
    assert val_facts(config, Progress(step=5)) is None
    best = {"step": 3, "accuracy": 50.0, "accuracy_ci95": 1.0, "loss": 0.5}
    progress = Progress(step=5, best=dict(best))
    assert val_facts(config, progress) == {
        "accuracy": 50.0, "accuracy_ci95": 1.0, "loss": 0.5, "split": "val", "episodes": 9, "best_step": 3,
    }  # fmt: skip
    assert progress.best == best


@pytest.mark.parametrize("steps", [0, 4])
def test_cost_per_step(steps: int) -> None:
    found = timing(Progress(step=steps, seconds=8.0, data_seconds=2.0), 100.0)
    assert found == {
        "train_seconds": 8.0, "seconds_per_step": 8.0 / max(steps, 1), "data_seconds_per_step": 2.0 / max(steps, 1),
        "peak_memory_mb": 100.0,
    }  # fmt: skip
