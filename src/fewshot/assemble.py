"""From a resolved configuration, as plain dicts, to data, algorithm, trainer and samplers. Layer 4."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewshot import episode_file, stored_state
from fewshot.algorithms.base import Algorithm
from fewshot.backbones.normalized import chosen_statistics, normalized
from fewshot.construct import construct
from fewshot.datasets.base import Dataset, ImageSet
from fewshot.engine import strict_json
from fewshot.engine.machine import Machine
from fewshot.episode import Stream
from fewshot.errors import InputError, check_choice, first_line
from fewshot.evaluation import evaluating
from fewshot.loggers.base import Logger
from fewshot.sampler import EpisodeSampler
from fewshot.sizes import largest
from fewshot.streams import BlockStream, SizedStream, stream
from fewshot.trainer import Trainer
from fewshot.transforms import Augment

LOGGER = [name for name in vars(Logger) if not name.startswith("_")]  # its methods
Config = Mapping[str, Any]  # every key of config.yaml, resolved


def make_dataset(config: Config) -> Dataset:
    """The configured data set, before it is loaded."""
    dataset = construct(config["dataset"], "dataset")
    if not callable(getattr(dataset, "load", None)):
        target = config["dataset"]["_target_"]
        raise InputError(f"dataset: {target} gave a {type(dataset).__name__}, which has no load()")
    return dataset


def load_images(config: Config, dataset: Dataset | None = None) -> ImageSet:
    """The configured data set, or the one that was made of it, loaded."""
    images: Any = (dataset or make_dataset(config)).load()
    if not isinstance(images, ImageSet):
        target = config["dataset"]["_target_"]
        raise InputError(f"dataset: {target}.load() gave a {type(images).__name__}, not an ImageSet")
    return images


def data_context(config: Config, images: ImageSet) -> dict[str, Any]:
    """What constructors are told of the data; a checkpoint keeps it, so that a model is restored without data."""
    made = images.protocol
    return {
        "image_shape": list(images.image_shape),
        "train_classes": len(images.split(config["train_split"])),
        "normalization": chosen_statistics(config["normalize"], images.normalization, images.image_shape[0]),
        "pictures": {"side": max(images.images.shape[2:]), "fit": made.get("fit", "crop"),
                     "resize": made.get("resize"), "inverted": bool(made.get("inverted"))},
    }  # fmt: skip


def make_backbone(config: Config, context: Mapping[str, Any], seed: int) -> nn.Module:
    """With weights drawn from `seed`, on the CPU."""
    torch.manual_seed(seed)
    backbone = construct(config["backbone"], "backbone", **context)
    _check_module("backbone", config["backbone"], backbone, nn.Module)
    if not isinstance(getattr(backbone, "out_features", None), int):
        target = config["backbone"]["_target_"]
        raise InputError(f"backbone: {target} has no whole number `out_features`, the width of its embedding")
    return normalized(backbone, context.get("normalization"))


def make_algorithm(config: Config, context: Mapping[str, Any], seed: int) -> Algorithm:
    """Backbone and algorithm with weights drawn from `seed`, on the CPU."""
    backbone = make_backbone(config, context, seed)
    ways = largest(config["train_ways"])
    algorithm = construct(config["algorithm"], "algorithm", backbone=backbone, ways=ways, **context)
    _check_module("algorithm", config["algorithm"], algorithm, Algorithm)
    if not isinstance(getattr(algorithm, "stream", None), Stream):
        what = type(getattr(algorithm, "stream", None)).__name__
        raise InputError(
            f"algorithm: {type(algorithm).__name__}.stream is a {what}; expected Episodes or Minibatches, which its "
            "YAML names and its constructor keeps: self.stream = stream"
        )
    return algorithm


def _check_module(key: str, node: Mapping[str, Any], made: Any, kind: type) -> None:
    """InputError where a class or function gave no module of this kind, or one that was not initialised."""
    target = node["_target_"]
    if not isinstance(made, kind):
        raise InputError(f"{key}: {target} gave a {type(made).__name__}; expected a {kind.__module__}.{kind.__name__}")
    if "_parameters" not in vars(made):
        raise InputError(f"{key}: {target}.__init__ does not call super().__init__()")


def check_storable(algorithm: Algorithm) -> None:
    """InputError where a checkpoint or result.json could not hold what the algorithm says of itself: found now, not
    after training."""
    name = type(algorithm).__name__
    try:
        stored_state.check(algorithm.state_dict())
    except TypeError as error:
        raise InputError(f"{name}.state_dict() cannot be stored: {error}") from error
    stated = algorithm.protocol()
    try:
        strict_json.dumps({**stated})
    except TypeError as error:
        kinds = {k: type(v).__name__ for k, v in stated.items()} if isinstance(stated, dict) else type(stated).__name__
        raise InputError(f"{name}.protocol() gave {kinds}; expected texts, numbers, lists and None by name") from error


def make_trainer(config: Config) -> Trainer:
    """The trainer, its optimiser tried on one number and its schedule on the first step: their errors would come in
    mid-run otherwise."""
    trainer = construct(config["trainer"], "trainer")
    try:
        made = trainer.make_optimizer([torch.zeros(1, requires_grad=True)])
    except Exception as error:  # of torch's classes, which do not agree on a kind
        said = first_line(error) if isinstance(error, TypeError | ValueError) else f"its values do not fit ({error!r})"
        raise InputError(f"trainer.optimizer: {said}") from error
    if not isinstance(made, torch.optim.Optimizer):
        raise InputError(f"trainer.optimizer gave a {type(made).__name__}; expected a torch.optim.Optimizer")
    if not isinstance(factor := trainer.schedule(0), int | float) or not 0 <= factor < math.inf:
        raise InputError(
            f"trainer.schedule gave {factor!r} for step 0; expected a factor on the learning rate, 0 or more"
        )
    return trainer


def make_loggers(config: Config) -> list[Logger]:
    """In the order of the configuration."""
    loggers = {key: construct(node, f"logger.{key}") for key, node in (config.get("logger") or {}).items()}
    for key, logger in loggers.items():
        if missing := [name for name in LOGGER if not callable(getattr(logger, name, None))]:
            raise InputError(
                f"logger.{key}: {type(logger).__name__} has no {missing[0]}(); a logger has {', '.join(LOGGER)}"
            )
    return list(loggers.values())


def training_stream(config: Config, algorithm: Algorithm, images: ImageSet, machine: Machine) -> BlockStream:
    """This process's part of the batches that the algorithm trains on. InputError where it cannot train on such."""
    batches = stream(
        algorithm.stream, images, config["train_split"],
        seed=config["seed"], within_groups=config["within_groups"], device=machine.device,
        transforms=make_augment(config).train.values(), part=machine.processes.rank, parts=machine.processes.size,
        padded=algorithm.unequal_tasks,
    )  # fmt: skip
    if isinstance(batches, SizedStream):
        _check_sizes(algorithm, batches.sampler)
    return batches


def _check_sizes(algorithm: Algorithm, sampler: EpisodeSampler) -> None:
    """InputError where the algorithm cannot be trained on each of the sizes that the sampler draws."""
    ways, shots, queries, _ = sampler.sizes
    if shots.low < shots.high and shots.per == "class":
        raise InputError(
            f"{type(algorithm).__name__} cannot be trained on train_shots={shots}: images that only fill up smaller "
            "classes would take part; without `per: class` one number is drawn for each step"
        )
    if ways.low == ways.high:
        return
    few = sampler.of_size(ways.low, shots.low, queries.low).sample(0, 1)
    place = next(algorithm.parameters(), few.support_x).device
    try:
        with evaluating(algorithm):
            algorithm.adapt(few.support_x.to(place), few.support_y.to(place), ways=few.ways)
    except InputError as error:
        raise InputError(f"give train_ways as a number, not {ways}: {error}") from error


def make_augment(config: Config) -> Augment:
    """The configured transforms of training images and of copies of support images."""
    return construct(config["augment"], "augment")


def episode_sampler(
    config: Config, images: ImageSet, split: str, device: torch.device, *, training: bool = False
) -> EpisodeSampler:
    """Validation or test episodes: they depend on `eval_seed`, not on `seed`.

    training: their images are changed as for training, for a look at them.
    """
    augment = make_augment(config)
    copies = {"support": augment.support.values(), "support_copies": augment.support_copies}
    changed: dict[str, Any] = {"transforms": augment.train.values()} if training else copies
    options = config["evaluation"]
    check_choice("evaluation.query_balance", options["query_balance"], ("uniform", "dirichlet"))
    dirichlet = options["concentration"] if options["query_balance"] == "dirichlet" else None
    return EpisodeSampler(
        images, split, ways=config["ways"], shots=config["shots"], queries=config["queries"],
        seed=config["eval_seed"], within_groups=config["within_groups"], device=device, dirichlet=dirichlet,
        total_queries=options["total_queries"],
        **changed,
    )  # fmt: skip


def test_sampler(config: Config, images: ImageSet, split: str, device: torch.device) -> EpisodeSampler:
    """The sampler of the test's episodes: those of `evaluation.episodes_file`, where it is set."""
    sampler = episode_sampler(config, images, split, device)
    if file := config["evaluation"]["episodes_file"]:
        episode_file.share(Path(file), sampler, images, config["evaluation"]["episodes"])
    return sampler
