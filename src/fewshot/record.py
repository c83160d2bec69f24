"""The one test of a run, and the record that it leaves: episodes and result.json, made here for every verb. Layer 4."""

import io
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from fewshot import result, shown
from fewshot.algorithms.base import Algorithm
from fewshot.assemble import Config, make_augment
from fewshot.datasets.base import ImageSet
from fewshot.engine.machine import Machine
from fewshot.engine.progress import Progress
from fewshot.engine.runtime import peak_memory_mb
from fewshot.evaluation import Evaluation, evaluate, raw_pixels
from fewshot.metrics import Mean
from fewshot.run_folder import RunFolder
from fewshot.sampler import EpisodeSampler
from fewshot.sizes import chance, said
from fewshot.trainer import Progress as TrainingProgress

log = logging.getLogger("fewshot")


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A model, the episodes that it is tested on, and what a result has to say of both."""

    config: Config
    names: Mapping[str, str]  # group -> what was chosen: {"algorithm": "fomaml", ...}
    run_name: str
    algorithm: Algorithm
    images: ImageSet
    split: str
    sampler: EpisodeSampler
    machine: Machine
    which: str  # checkpoint: best | last | a step
    step: int  # of that checkpoint's run
    context: Mapping[str, Any]  # what constructors were told of the training data
    overlap: str | None = None  # what is to be said of classes with two uses, see `leaks`
    cuda_graph: bool = True  # on CUDA: the test's batches as graphs, where they can be captured


class Outcome(NamedTuple):
    """What the test gave."""

    done: Evaluation
    baselines: dict[str, dict[str, float]]
    peak_memory_mb: float  # of training and test


def run_test(
    tested: Tested, *, untrained: Callable[[], Algorithm] | None = None, between: Callable[[], None] = lambda: None
) -> Outcome:
    """The test split, touched once: the model, and the baselines on the same episodes.

    untrained: makes the same model before training, for the second baseline. between: called before each batch.
    """
    tested.algorithm.check_measured()
    evaluation, machine = tested.config["evaluation"], tested.machine
    options: dict[str, Any] = {"episodes": evaluation["episodes"], "tasks": evaluation["tasks"]}
    shared = options | {"dtype": machine.dtype, "processes": machine.processes, "between": between}
    shared["cuda_graph"] = tested.cuda_graph and machine.device.type == "cuda"
    rounds = 2 if untrained is None else 3
    with Progress("testing, with baselines", rounds * options["episodes"], usual=True) as work:
        advance = work.advance if machine.processes.first else lambda episodes: None
        done = evaluate(tested.algorithm, tested.sampler, **shared, every_step=True, advance=advance)
        done.require_finite()
        peak = peak_memory_mb(machine.device)
        baselines = {"raw_pixels": _named(raw_pixels(tested.sampler, **options, advance=advance))}
        if untrained is not None:
            fresh = untrained().to(machine.device)
            baselines["untrained"] = _named(evaluate(fresh, tested.sampler, **shared, advance=advance).mean)
    return Outcome(done, baselines, peak)


def keep_episodes(folder: RunFolder, tested: Tested, done: Evaluation) -> None:
    """test.npz: per episode classes [E, N], accuracy [E], accuracy after each inner step [E, S+1] (percent).

    shown.npz: the test's first episode and its hardest, for pictures; never the end of a run.
    """
    content = io.BytesIO()
    np.savez_compressed(
        content,
        classes=done.classes.numpy(), accuracy=done.accuracy.numpy(), step_accuracy=done.step_accuracy.numpy(),
    )  # fmt: skip
    folder.keep_file(folder.episodes / "test.npz", content.getvalue())
    try:
        episodes = [
            shown.adapt_and_show(
                tested.algorithm, tested.sampler, tested.images.class_names, episode=k, dtype=tested.machine.dtype
            )
            for k in shown.first_and_hardest(done.accuracy)
        ]
        shown.save(content := io.BytesIO(), episodes)
        folder.keep_file(folder.episodes / "shown.npz", content.getvalue())
    except Exception as error:  # a user's algorithm may have no backbone, or one that takes no images
        log.warning("no episodes are kept for pictures: %s", " ".join(str(error).split()) or type(error).__name__)


def make_result(
    tested: Tested, outcome: Outcome, *, identity: str, train: Mapping[str, Any], val: Mapping[str, Any] | None,
    paper: Mapping[str, Any] | None, cost: Mapping[str, float], departures: Sequence[str] = (),
    losses: Sequence[float] = (), **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """The content of result.json, in its order. train: what it was trained on; departures: from the recipe that
    `paper` is of; losses: of the training, in order; more: what only one verb knows."""
    config, done, machine = tested.config, outcome.done, tested.machine
    asked = {key: said(config[key]) for key in ("ways", "shots", "queries")} | {"seed": config["seed"]}
    episodes_per_second = {"test_episodes_per_second": len(done.accuracy) / done.seconds}
    return {
        "schema": result.SCHEMA, "name": tested.run_name, "algorithm": tested.names["algorithm"],
        "dataset": tested.names["dataset"], "split": tested.split, **asked, "steps": tested.step,
        "backbone": backbone_facts(tested.algorithm, tested.names["backbone"], tested.context["image_shape"]),
        "train": dict(train),
        "baselines": outcome.baselines,
        "test": done.summary() | done.by_inner_step() | {"embedded_once": done.embedded_once},
        "val": val,
        "paper": result.verdict(paper, done.mean.value, done.mean.ci95, departures),
        "protocol": result.protocol(tested.images, tested.algorithm, protocol_facts(tested), make_augment(config)),
        "timing": dict(cost) | episodes_per_second,
        "environment": result.environment(machine.device, machine.precision, machine.processes.size),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "warnings": warnings(done, asked["ways"], losses),
        "identity": identity,
        **more,
    }  # fmt: skip


def warnings(done: Evaluation, ways: int | str, losses: Sequence[float]) -> list[str]:
    """Signs that nothing was learned: accuracy of guessing, a training loss whose last quarter is above its start."""
    found, mean, guessing = [], done.mean, chance(ways)
    if mean.value - mean.ci95 <= guessing:
        found.append(f"the accuracy is that of guessing ({guessing:.1f} % for {ways} ways)")
    end = losses[-(len(losses) // 4) :] if len(losses) >= 4 else ()
    if end and (late := sum(end) / len(end)) > losses[0]:
        found.append(f"the training loss ended at {late:.3g}, above its start at {losses[0]:.3g}: it has diverged")
    return found


def backbone_facts(algorithm: Algorithm, name: str, image_shape: list[int]) -> dict[str, Any]:
    """What tells one network from another: its name, how many weights are learned, [C, H, W] of its images."""
    network = getattr(algorithm, "backbone", None)
    weights = network.parameters() if isinstance(network, torch.nn.Module) else ()
    return {"name": name, "parameters": sum(p.numel() for p in weights), "image_size": list(image_shape)}


def protocol_facts(tested: Tested) -> dict[str, Any]:
    config = tested.config
    return {"queries": said(config["queries"]), "checkpoint_rule": tested.which,
            "within_groups": config["within_groups"], "skipped_groups": tested.sampler.groups.skipped,
            "eval_seed": config["eval_seed"], "query_balance": tested.sampler.query_balance,
            "episodes_file": tested.sampler.given_from, "overlap": tested.overlap}  # fmt: skip


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


def _named(mean: Mean) -> dict[str, float]:
    return {"accuracy": mean.value, "accuracy_ci95": mean.ci95}
