"""`import fewshot`: what the command line does, from Python. Layer 7.

run = fewshot.train(["algorithm=protonet", "shots=5"])
run.evaluate(ways=20)
classifier = run.fit(images, labels)
"""

import contextlib
import threading
from collections.abc import Hashable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fewshot.algorithms.base import Algorithm
from fewshot.assemble import make_algorithm
from fewshot.backbones.image_input import ImageInput
from fewshot.classifier import Classifier
from fewshot.cli.compose import compose, conf_dir, searching
from fewshot.cli.evaluate import carry_out as carry_out_evaluation
from fewshot.cli.evaluate import offer_run
from fewshot.cli.overrides import override
from fewshot.cli.recipe import departures
from fewshot.cli.stages import check_init
from fewshot.cli.train import carry_out as carry_out_training
from fewshot.errors import InputError
from fewshot.pictures import Pictures
from fewshot.plan import plan_evaluation, plan_training
from fewshot.run_folder import RunFolder
from fewshot.signals import StopSignal
from fewshot.trained import Trained, restore

IMAGENET = Pictures(image_shape=(3, 224, 224), side=256)  # what the classification models of torchvision are tested on


class Run:
    """A training run or an evaluation, by its folder. Every method raises FewshotError with one line.

    trust: follow whatever code the folder names, also where it was not trained here; see docs/security.md.
    """

    def __init__(self, path: str | Path, *, trust: bool = False) -> None:
        self.path, self._folder, self._trust = Path(path), RunFolder(Path(path)), trust
        if not (self.path / "run.json").is_file():
            raise InputError(f"{path} is not a run folder (it has no run.json); give the folder of one run")

    def __repr__(self) -> str:
        return f"Run('{self.path}')"

    @property
    def result(self) -> dict[str, Any]:
        """result.json: accuracies in percent, protocol, cost, ... FewshotError where the run is not finished."""
        return self._folder.result()

    @property
    def config(self) -> dict[str, Any]:
        """Every key of the run, resolved."""
        return self._folder.config

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A row for every logged step: step, train/loss, train/accuracy, val/accuracy, ..."""
        return self._folder.metrics.read()

    def metrics_frame(self) -> Any:
        """`metrics` as a pandas.DataFrame with the step as its index. InputError where pandas is not installed."""
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise InputError("metrics_frame() needs pandas: pip install pandas; run.metrics is a plain list") from error
        return pandas.DataFrame(self.metrics).set_index("step")

    @cached_property
    def _trained(self) -> Trained:
        return restore(self._folder, trust=self._trust)

    @property
    def model(self) -> Algorithm:
        """The algorithm with the weights that the run was tested with, in eval mode."""
        return self._trained.algorithm

    def evaluate(self, *overrides: str, config_dir: str | None = None, **keys: Any) -> dict[str, Any]:
        """The result of `fewshot evaluate` with these keys: run.evaluate("evaluation.episodes=100", ways=20)."""
        keys = {"trust": self._trust, **keys}
        words = [override("run", str(self.path)), *overrides, *[override(key, value) for key, value in keys.items()]]
        offer_run(words)
        composed = compose("evaluate", words, config_dir)
        return carry_out_evaluation(plan_evaluation(composed.config, composed.choices)).result()

    def fit(self, images: Iterable[Any], labels: Sequence[Hashable], *, device: str = "auto") -> Classifier:
        """A classifier for the classes of some labelled pictures; see `Classifier`."""
        return Classifier(self.model, self._trained.pictures, device=device).fit(images, labels)


def train(overrides: Sequence[str] = (), *, config_dir: str | None = None) -> Run:
    """What `fewshot train` does with these overrides: a run to its end, in a folder of its own.

    config_dir: a folder with YAML files of the user's own. Ctrl-C saves and raises `Stopped`; the same call resumes.
    """
    stop = StopSignal()
    caught = stop if threading.current_thread() is threading.main_thread() else contextlib.nullcontext()
    with searching(config_dir), caught:
        composed = compose("config", overrides)
        check_init(composed.config)
        changed = departures(composed.config, composed.choices)
        folder = carry_out_training(plan_training(composed.config, composed.choices, departures=changed), stop)
    assert folder is not None  # there is one process
    return Run(folder.path)


def load(path: str | Path, *, trust: bool = False) -> Run:
    """The run in a folder. InputError where there is none. trust: as in `Run`."""
    return Run(path, trust=trust)


def evaluate(run: Run | str | Path, *overrides: str, config_dir: str | None = None, **keys: Any) -> dict[str, Any]:
    """The result of `fewshot evaluate run=RUN` with these keys; see `Run.evaluate`."""
    return (run if isinstance(run, Run) else load(run)).evaluate(*overrides, config_dir=config_dir, **keys)


def pretrained(name: str, *, config_dir: str | None = None, device: str = "auto", **keys: Any) -> Classifier:
    """A classifier that needs no run: a pre-trained network and the nearest class mean, by cosine.

    name: of a backbone's YAML file, or of a model of torchvision (its weights are downloaded). keys: of that backbone.
    """
    folders = [conf_dir(), *([Path(config_dir)] if config_dir else [])]
    of_torchvision = ["backbone=torchvision", "backbone.weights=default", override("backbone.model", name)]
    own = any((folder / "backbone" / f"{name}.yaml").is_file() for folder in folders)
    words = [f"backbone={name}"] if own else of_torchvision
    words += [override(f"backbone.{key}", value) for key, value in keys.items()]
    config = compose("config", ["algorithm=protonet", "algorithm.distance=cosine", *words], config_dir).config
    algorithm = make_algorithm(config, {"image_shape": list(IMAGENET.image_shape), "train_classes": 0}, config["seed"])
    return Classifier(algorithm, _pictures_for(algorithm), device=device)


def _pictures_for(algorithm: Algorithm) -> Pictures:
    """What its network was trained to see, where that says so."""
    for part in algorithm.modules():
        if isinstance(part, ImageInput):
            return Pictures(image_shape=(3, part.size, part.size), side=part.resize, resize=part.interpolation)
    return IMAGENET
