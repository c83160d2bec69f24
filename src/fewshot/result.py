"""What result.json says of a run: numbers, protocol, cost, surroundings, and the verdict. Layer 4."""

import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fewshot import __version__
from fewshot.algorithms.base import Algorithm
from fewshot.assemble import Config, make_augment
from fewshot.backbones.normalized import stated as stated_normalization
from fewshot.datasets.base import ImageSet
from fewshot.engine.code_version import git_commit
from fewshot.engine.runtime import describe
from fewshot.evaluation import Evaluation
from fewshot.final_test import Outcome, Tested
from fewshot.sizes import chance, in_words
from fewshot.training_state import TrainingProgress
from fewshot.transforms import Augment, described

SCHEMA = 1


def make_result(
    tested: Tested, outcome: Outcome, *, identity: str, train: Mapping[str, Any], val: Mapping[str, Any] | None,
    paper: Mapping[str, Any] | None, cost: Mapping[str, float], departures: Sequence[str] = (),
    losses: Sequence[float] = (), run: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The content of result.json, in its order.

    train: what it was trained on. departures: from the recipe that `paper` is of. losses: of the training, in order.
    run: folder of the training, where this is an evaluation of it.
    """
    config, done, machine = tested.config, outcome.done, tested.machine
    asked = {key: in_words(config[key]) for key in ("ways", "shots", "queries")} | {"seed": config["seed"]}
    episodes_per_second = {"test_episodes_per_second": len(done.accuracy) / done.seconds}
    return {
        "schema": SCHEMA, "name": tested.run_name, "algorithm": tested.names["algorithm"],
        "dataset": tested.names["dataset"], "split": tested.split, **asked, "steps": tested.step,
        "backbone": backbone_facts(tested.algorithm, tested.names["backbone"], tested.context["image_shape"]),
        "train": dict(train),
        "baselines": outcome.baselines,
        "test": done.summary() | done.by_inner_step() | {"embedded_once": done.embedded_once},
        "val": val,
        "paper": verdict(paper, done.mean.value, done.mean.ci95, departures),
        "protocol": protocol(tested.images, tested.algorithm, _test_facts(tested), make_augment(config)),
        "timing": dict(cost) | episodes_per_second,
        "environment": environment(machine.device, machine.precision, machine.processes.size),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "warnings": warnings(done, asked["ways"], losses),
        "identity": identity,
        **({"run": run} if run else {}),
    }  # fmt: skip


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


def protocol(images: ImageSet, algorithm: Algorithm, test: Mapping[str, Any], augment: Augment) -> dict[str, Any]:
    """Everything that moves a number without being the method: see docs/protocols.md. test: see `_test_facts`."""
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


def _test_facts(tested: Tested) -> dict[str, Any]:
    """How the test's episodes were drawn, and which checkpoint was tested on them."""
    config, sampler = tested.config, tested.sampler
    return {"queries": in_words(config["queries"]), "checkpoint_rule": tested.which,
            "within_groups": config["within_groups"], "skipped_groups": sampler.groups.skipped,
            "eval_seed": config["eval_seed"], "query_balance": sampler.query_balance,
            "episodes_file": sampler.given_from, "overlap": tested.overlap}  # fmt: skip


def backbone_facts(algorithm: Algorithm, name: str, image_shape: list[int]) -> dict[str, Any]:
    """What tells one network from another: its name, how many weights are learned, [C, H, W] of its images."""
    network = getattr(algorithm, "backbone", None)
    weights = network.parameters() if isinstance(network, torch.nn.Module) else ()
    return {"name": name, "parameters": sum(p.numel() for p in weights), "image_size": list(image_shape)}


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


def warnings(done: Evaluation, ways: int | str, losses: Sequence[float]) -> list[str]:
    """Signs that nothing was learned: accuracy of guessing, a training loss whose last quarter is above its start."""
    found, mean, guessing = [], done.mean, chance(ways)
    if mean.value - mean.ci95 <= guessing:
        found.append(f"the accuracy is that of guessing ({guessing:.1f} % for {ways} ways)")
    end = losses[-(len(losses) // 4) :] if len(losses) >= 4 else ()
    if end and (late := sum(end) / len(end)) > losses[0]:
        found.append(f"the training loss ended at {late:.3g}, above its start at {losses[0]:.3g}: it has diverged")
    return found


def val_facts(config: Config, progress: TrainingProgress) -> dict[str, Any] | None:
    """The best validation of a training, and on what; None where there was none."""
    if not progress.best:
        return None
    options, best = config["evaluation"], dict(progress.best)
    where = {"split": options["val_split"], "episodes": options["val_episodes"], "best_step": best.pop("step")}
    return best | where


def timing(progress: TrainingProgress, peak_memory_mb: float) -> dict[str, float]:
    """What a training cost."""
    steps = max(progress.step, 1)
    return {
        "train_seconds": progress.seconds, "seconds_per_step": progress.seconds / steps,
        "data_seconds_per_step": progress.data_seconds / steps, "peak_memory_mb": peak_memory_mb,
    }  # fmt: skip
