"""What result.json says beside the numbers."""

import pytest
import torch
from torch import nn

from fewshot.algorithms.base import Algorithm
from fewshot.evaluation import Evaluation
from fewshot.record import backbone_facts, timing, val_facts, warnings
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


def evaluated(*accuracies: float, steps: int = 0) -> Evaluation:
    column = torch.tensor(accuracies, dtype=torch.float64)
    by_step = torch.stack([column - 5 * (steps - k) for k in range(steps + 1)], 1)
    finite = torch.ones(len(column), dtype=torch.bool)
    return Evaluation(column, by_step, torch.zeros(len(column), 5), 1.0, 1.0, finite, embedded_once=False)


@pytest.mark.parametrize(
    ("accuracies", "losses", "said"),
    [
        ((19.0, 22.0, 20.0), (1.6, 1.5, 1.2, 1.0), ["that of guessing (20.0 % for 5 ways)"]),
        ((59.0, 62.0, 60.0), (1.6, 1.5, 1.2, 1.0), []),
        ((59.0, 62.0, 60.0), (1.6, 9.0, 9.0, 1.7), ["ended at 1.7, above its start at 1.6: it has diverged"]),
        ((19.0, 21.0, 20.0), (1.6, 2.5, 3.2, 4.0), ["that of guessing", "above its start"]),
        ((59.0, 62.0, 60.0), (1.6, 1.9), []),  # too short to tell
        ((59.0, 62.0, 60.0), (), []),
    ],
)
def test_signs_that_nothing_was_learned(accuracies: tuple[float, ...], losses: list[float], said: list[str]) -> None:
    found = warnings(evaluated(*accuracies), 5, losses)
    assert len(found) == len(said)
    assert all(text in warning for text, warning in zip(said, found, strict=True))


def test_accuracy_after_each_inner_step() -> None:
    assert evaluated(50.0, 60.0).by_inner_step() == {}
    steps = evaluated(50.0, 60.0, steps=2).by_inner_step()["inner_steps"]
    assert [step["accuracy"] for step in steps] == [45.0, 50.0, 55.0]
    assert all(step["accuracy_ci95"] == pytest.approx(9.8, abs=0.01) for step in steps)
