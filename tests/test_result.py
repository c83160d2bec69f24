"""What result.json says: the verdict's rule, the protocol's sources, the surroundings, warnings, cost."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fewshot import result
from fewshot.algorithms.base import Algorithm
from fewshot.datasets.base import ImageSet
from fewshot.evaluation import Evaluation
from fewshot.training_state import TrainingProgress
from fewshot.transforms import Augment

PAPER = {"accuracy": 98.0, "ci95": 0.4, "source": "arXiv:1703.03400, table 1", "tolerance": 0.3}


@pytest.mark.parametrize(
    ("accuracy", "ci95", "word"),
    [
        (98.0, 0.1, "reproduced"),
        (98.3, 0.1, "reproduced"),  # at the tolerance
        (97.7, 0.1, "reproduced"),
        (98.31, 0.1, "above"),
        (97.69, 0.1, "below"),
        (97.5, 0.5, "reproduced"),  # within our own interval
        (97.49, 0.5, "below"),
    ],
)
def test_verdict(accuracy: float, ci95: float, word: str) -> None:
    found = result.verdict({**PAPER, "accuracy": 98.0}, round(accuracy, 2), ci95 + 1e-9)
    assert found == {**PAPER, "verdict": word}


def test_no_paper_no_verdict() -> None:
    assert result.verdict(None, 98.0, 0.1) is None


def test_another_recipe_is_not_judged() -> None:
    changed = ["trainer.steps: 60000 -> 4"]
    assert result.verdict(PAPER, 98.0, 0.1, changed) == {**PAPER, "verdict": "not judged", "departures": changed}


class Stated(Algorithm):
    transductive = True

    def protocol(self) -> dict[str, object]:
        return {"distance": "cosine", "inner_steps_eval": 3}


def test_protocol_says_what_moves_a_number(make_images: Callable[..., ImageSet]) -> None:
    images = make_images([5, 5])
    object.__setattr__(images, "protocol", {"rotations": "task", "inverted": True})
    test = {
        "queries": 15,
        "checkpoint_rule": "best",
        "within_groups": False,
        "skipped_groups": 1,
        "eval_seed": 7,
        "query_balance": "uniform",
        "episodes_file": None,
        "overlap": None,
    }
    assert result.protocol(images, Stated(), test, Augment()) == {
        "norm_statistics": None, "queries_per_class": 15, "rotations": "task", "resize": None, "inverted": True,
        "split_hash": images.split_hash(), "checkpoint_rule": "best", "inner_steps_eval": 3, "distance": "cosine",
        "within_groups": False, "skipped_groups": 1, "transductive": True, "eval_seed": 7, "query_balance": "uniform",
        "episodes_file": None, "overlap": None,
        "image_size": [1, 2, 2], "stored_size": [1, 2, 2], "crop": None, "normalization": None,
        "augmentation": None, "support_augmentation": None, "support_copies": 0,
    }  # fmt: skip


def test_environment() -> None:
    found = result.environment(torch.device("cpu"), "fp32")
    assert list(found) == ["fewshot", "torch", "python", "device", "threads", "processes", "precision", "git"]
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["precision"] == "fp32"
    assert found["device"].startswith("cpu")


def test_outside_a_checkout_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr("subprocess.run", missing)
    assert result.environment(torch.device("cpu"), "fp32")["git"] is None


class Net(Algorithm):
    def __init__(self, backbone: nn.Module | None) -> None:
        super().__init__()
        if backbone is not None:
            self.backbone = backbone
        self.head = nn.Linear(3, 2)


def test_a_network_is_told_by_name_weights_and_image_size() -> None:
    """The head is not the network's: two algorithms with one backbone have the same."""
    assert result.backbone_facts(Net(nn.Linear(4, 3)), "mine", [1, 2, 2]) == {
        "name": "mine", "parameters": 15, "image_size": [1, 2, 2],
    }  # fmt: skip
    assert result.backbone_facts(Net(None), "none", [1, 2, 2])["parameters"] == 0


def test_the_best_validation() -> None:
    config = {"evaluation": {"val_split": "val", "val_episodes": 9}}
    assert result.val_facts(config, TrainingProgress(step=5)) is None
    best = {"step": 3, "accuracy": 50.0, "accuracy_ci95": 1.0, "loss": 0.5}
    progress = TrainingProgress(step=5, best=dict(best))
    assert result.val_facts(config, progress) == {
        "accuracy": 50.0, "accuracy_ci95": 1.0, "loss": 0.5, "split": "val", "episodes": 9, "best_step": 3,
    }  # fmt: skip
    assert progress.best == best


@pytest.mark.parametrize("steps", [0, 4])
def test_cost_per_step(steps: int) -> None:
    found = result.timing(TrainingProgress(step=steps, seconds=8.0, data_seconds=2.0), 100.0)
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
    found = result.warnings(evaluated(*accuracies), 5, losses)
    assert len(found) == len(said)
    assert all(text in warning for text, warning in zip(said, found, strict=True))


def test_accuracy_after_each_inner_step() -> None:
    assert evaluated(50.0, 60.0).by_inner_step() == {}
    steps = evaluated(50.0, 60.0, steps=2).by_inner_step()["inner_steps"]
    assert [step["accuracy"] for step in steps] == [45.0, 50.0, 55.0]
    assert all(step["accuracy_ci95"] == pytest.approx(9.8, abs=0.01) for step in steps)
