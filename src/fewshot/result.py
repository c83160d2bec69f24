"""What result.json says of a run: numbers, protocol, cost, surroundings, and the verdict. Layer 3."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fewshot import __version__
from fewshot.algorithms.base import Algorithm
from fewshot.backbones.normalized import stated as stated_normalization
from fewshot.datasets.base import ImageSet
from fewshot.engine.code_version import git_commit
from fewshot.engine.runtime import describe
from fewshot.transforms import Augment, described

SCHEMA = 1


def verdict(
    paper: Mapping[str, Any] | None, accuracy: float, ci95: float, departures: Sequence[str] = ()
) -> dict[str, Any] | None:
    """Ours against the published value: reproduced where they differ by at most max(tolerance, our interval).

    departures: what is not as in the recipe that the value is of, which then does not judge the run.
    """
    if paper is None:
        return None
    if departures:
        return {**paper, "verdict": "not judged", "departures": list(departures)}
    difference = accuracy - paper["accuracy"]
    if abs(difference) <= max(paper["tolerance"], ci95):
        word = "reproduced"
    else:
        word = "below" if difference < 0 else "above"
    return {**paper, "verdict": word}


def protocol(
    images: ImageSet, algorithm: Algorithm, test: Mapping[str, Any], augment: Augment | None = None
) -> dict[str, Any]:
    """Everything that moves a number without being the method: see docs/protocols.md."""
    augment = augment or Augment()
    stated = {
        "norm_statistics": None, "queries_per_class": test["queries"], "rotations": None, "resize": None,
        "inverted": None, "split_hash": images.split_hash(), "checkpoint_rule": test["checkpoint_rule"],
        "inner_steps_eval": 0, "distance": None, "within_groups": test["within_groups"],
        "skipped_groups": test["skipped_groups"], "eval_seed": test["eval_seed"],
        "query_balance": test["query_balance"], "episodes_file": test["episodes_file"],
        "overlap": test["overlap"],  # of the classes tested on with those trained or validated on
        "transductive": algorithm.transductive,
        "image_size": list(images.image_shape), "stored_size": list(images.images.shape[1:]),
        "crop": "centre" if images.size else None,
        "normalization": stated_normalization(getattr(algorithm, "backbone", None)),
        "augmentation": described(augment.train.values()) or None,
        "support_augmentation": described(augment.support.values()) if augment.support_copies else None,
        "support_copies": augment.support_copies,
    }  # fmt: skip
    return stated | dict(images.protocol) | algorithm.protocol()


def environment(device: torch.device, precision: str, processes: int = 1) -> dict[str, Any]:
    """What the numbers were made with."""
    return {
        "fewshot": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": describe(device),
        "threads": torch.get_num_threads(),  # of each process
        "processes": processes,
        "precision": precision,
        "git": git_commit(),
    }
