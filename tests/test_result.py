"""What result.json says: the verdict's rule, the protocol's sources, the surroundings."""

from collections.abc import Callable

import pytest
import torch

from fewshot import result
from fewshot.algorithms.base import Algorithm
from fewshot.datasets.base import ImageSet

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
    assert result.protocol(images, Stated(), test) == {
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
