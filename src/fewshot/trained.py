"""A run's weights, used again: restored as they were tested, or as the start of another run. Layer 4."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from fewshot import checkpoint
from fewshot.algorithms.base import Algorithm
from fewshot.assemble import Config, make_algorithm
from fewshot.backbones.normalized import Normalized
from fewshot.datasets.base import ImageSet
from fewshot.errors import FewshotError, InputError
from fewshot.folders import name_of
from fewshot.identity import edited
from fewshot.pictures import Pictures
from fewshot.run_folder import RunFolder

log = logging.getLogger("fewshot")


class Trained(NamedTuple):
    """A model as it came out of training, on the CPU and in eval mode. It needs no data set."""

    algorithm: Algorithm
    config: dict[str, Any]  # of the run
    context: dict[str, Any]  # what constructors were told of the training data: image_shape, ...
    which: str  # best | last | a step
    step: int
    run: RunFolder

    @property
    def pictures(self) -> Pictures:
        """How pictures become images of the kind that it was trained on."""
        if "pictures" in self.context or not self.run.finished:
            return Pictures.of_context(self.context)
        told = self.run.result()["protocol"]  # of version 0.1
        return Pictures.of_context(
            {**self.context, "pictures": {"resize": told["resize"], "inverted": bool(told["inverted"])}}
        )


def restore(
    run: RunFolder | Path, which: str | int | None = None, config: Config | None = None, *, trust: bool = False
) -> Trained:
    """The model of a run folder. which: best, last or a step; None: the one that the run was tested with.

    config: one that differs from the run's own in what may differ at test (inner steps, statistics of norms).
    trust: follow whatever a run names that was not made here. InputError where there is no such run or checkpoint, or
    it names code and is not trusted; FewshotError where the weights do not fit `config`.
    """
    run = run if isinstance(run, RunFolder) else RunFolder(run)
    own = run.training_config
    if not trust:
        run.refuse_foreign_code(own, ("backbone", "algorithm"))
    if edited(run):
        log.warning("%s/config.yaml was edited since the run began: this is not what its weights were trained with",
                    run.path)  # fmt: skip
    text, have = str(which or run.tested_with), checkpoint.steps(run.checkpoints)
    if text not in ("best", "last", *map(str, have)):
        raise InputError(f"checkpoint={text} is not in {run.path}; choose best, last or one of {have}")
    step, state = checkpoint.load(run.checkpoints, int(text) if text.isdigit() else text)
    algorithm = make_algorithm(config or own, state["context"], own["seed"])
    checkpoint.load_into(algorithm, state["model"])
    return Trained(algorithm.eval(), own, state["context"], text, step, run)


def stored_names(run: RunFolder) -> dict[str, str]:
    """What was chosen for a run, by group; version 0.1 told the algorithm's name alone, and only at the end."""
    names = run.about.get("names") or ({"algorithm": run.result()["algorithm"]} if run.finished else {})
    return chosen_names(run.training_config, names)


def chosen_names(config: Config, choices: Mapping[str, str | None]) -> dict[str, str]:
    """Group -> the name of the YAML file that was chosen, which tells fomaml from maml; without one, the class's.

    A data set that lies at `root` has the name of that folder or file: two of them are two data sets.
    """
    names = {
        group: choices.get(group) or str(config[group]["_target_"]).rsplit(".", 1)[-1].lower()
        for group in ("dataset", "backbone", "algorithm")
    }
    root = config["dataset"].get("root")
    return names | ({"dataset": name_of(root) or names["dataset"]} if root else {})


class Start(NamedTuple):
    """Where a run's first weights come from, as its result says it."""

    path: str
    weights: str  # hash, whatever the path
    part: str | None


def start_from(path: Path, part: str | None, algorithm: Algorithm) -> Start:
    """Give the algorithm the weights that a finished run was tested with; part: backbone, or None for all.

    InputError where there are none, or they do not fit.
    """
    run = RunFolder(path)
    which = run.tested_with
    try:
        weights = checkpoint.load(run.checkpoints, which)[1]["model"]
        if part == "backbone":
            _load_backbone(algorithm.backbone, weights)  # type: ignore[arg-type]
        else:
            checkpoint.load_into(algorithm, weights)
    except FewshotError as error:
        hint = "" if part or "does not fit" not in str(error) else "; init_part=backbone takes its backbone alone"
        raise InputError(f"init={path}: {error}{hint}") from error
    return Start(str(path), run.weights(which), part)


def _load_backbone(backbone: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """The backbone's part of an algorithm's weights, whether or not a normalisation is around it here or there."""
    inner = backbone.network if isinstance(backbone, Normalized) else backbone
    theirs = {key.removeprefix("backbone."): w for key, w in weights.items() if key.startswith("backbone.")}
    unwrapped = {key.removeprefix("network."): w for key, w in theirs.items()}
    checkpoint.load_into(inner, unwrapped if unwrapped.keys() == inner.state_dict().keys() else theirs)


def same_shape(images: ImageSet, context: Mapping[str, Any]) -> None:
    """InputError where a trained model is to be tested on images of another size."""
    have, trained = list(images.image_shape), list(context["image_shape"])
    if have != trained:
        raise InputError(
            f"the run was trained on images of {'x'.join(map(str, trained))}, those of '{images.name}' are "
            f"{'x'.join(map(str, have))}; set dataset.size={trained[-1]}"
        )
