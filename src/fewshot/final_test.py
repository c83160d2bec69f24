"""The final test of a run, for every verb: the model, the baselines, and the episodes that are kept of it. Layer 4.

What result.json says of it is made in `result.py`.
"""

import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fewshot import shown
from fewshot.algorithms.base import Algorithm
from fewshot.assemble import Config
from fewshot.datasets.base import ImageSet
from fewshot.engine.machine import Machine
from fewshot.engine.progress import Progress
from fewshot.engine.runtime import peak_memory_mb
from fewshot.errors import first_line
from fewshot.evaluation import Evaluation, evaluate, raw_pixels
from fewshot.run_folder import RunFolder
from fewshot.sampler import EpisodeSampler

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
    tested: Tested, *, untrained: Callable[[], Algorithm] | None = None, before_batch: Callable[[], None] = lambda: None
) -> Outcome:
    """The test split, touched once: the model, and the baselines on the same episodes.

    untrained: makes the same model before training, for the second baseline. before_batch: called before each batch.
    """
    tested.algorithm.check_measured()
    evaluation, machine = tested.config["evaluation"], tested.machine
    options: dict[str, Any] = {"episodes": evaluation["episodes"], "tasks": evaluation["tasks"]}
    shared = options | {"dtype": machine.dtype, "processes": machine.processes, "before_batch": before_batch}
    shared["cuda_graph"] = tested.cuda_graph and machine.device.type == "cuda"
    rounds = 2 if untrained is None else 3
    with Progress("testing, with baselines", rounds * options["episodes"], usual=True) as work:
        advance = work.advance if machine.processes.first else lambda episodes: None
        done = evaluate(tested.algorithm, tested.sampler, **shared, every_step=True, advance=advance)
        done.require_finite()
        peak = peak_memory_mb(machine.device)
        baselines = {"raw_pixels": raw_pixels(tested.sampler, **options, advance=advance).as_accuracy()}
        if untrained is not None:
            fresh = untrained().to(machine.device)
            baselines["untrained"] = evaluate(fresh, tested.sampler, **shared, advance=advance).mean.as_accuracy()
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
        log.warning("no episodes are kept for pictures: %s", first_line(error))
