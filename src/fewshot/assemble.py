"""From a resolved configuration, as plain dicts, to data, algorithm, trainer and samplers. Layer 4."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewshot import episode_file
from fewshot.algorithms.base import Algorithm
from fewshot.backbones.normalized import chosen_statistics, normalized
from fewshot.construct import construct, first_line
from fewshot.datasets.base import ImageSet
from fewshot.engine.machine import Machine
from fewshot.errors import InputError, check_choice
from fewshot.loggers.base import Logger
from fewshot.sampler import BatchStream, EpisodeSampler, stream
from fewshot.trainer import Trainer
from fewshot.transforms import Augment

Config = Mapping[str, Any]  # every key of config.yaml, resolved


def load_images(config: Config) -> ImageSet:
    """The configured data set."""
    images = construct(config["dataset"], "dataset").load()
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
    if not isinstance(getattr(backbone, "out_features", None), int):
        target = config["backbone"]["_target_"]
        raise InputError(f"backbone: {target} has no whole number `out_features`, the width of its embedding")
    return normalized(backbone, context.get("normalization"))


def make_algorithm(config: Config, context: Mapping[str, Any], seed: int) -> Algorithm:
    """Backbone and algorithm with weights drawn from `seed`, on the CPU."""
    backbone = make_backbone(config, context, seed)
    return construct(config["algorithm"], "algorithm", backbone=backbone, ways=config["train_ways"], **context)


def make_trainer(config: Config) -> Trainer:
    """The trainer, its optimiser's arguments tried on one number: their errors would come in mid-run otherwise."""
    trainer = construct(config["trainer"], "trainer")
    try:
        trainer.make_optimizer([torch.zeros(1, requires_grad=True)])
    except Exception as error:  # of torch's classes, which do not agree on a kind
        said = first_line(error) if isinstance(error, TypeError | ValueError) else f"its values do not fit ({error!r})"
        raise InputError(f"trainer.optimizer: {said}") from error
    return trainer


def make_loggers(config: Config) -> list[Logger]:
    """In the order of the configuration."""
    return [construct(node, f"logger.{key}") for key, node in (config["logger"] or {}).items()]


def training_stream(config: Config, algorithm: Algorithm, images: ImageSet, machine: Machine) -> BatchStream:
    """This process's part of the batches that the algorithm trains on."""
    return stream(
        algorithm.stream, images, config["train_split"],
        seed=config["seed"], within_groups=config["within_groups"], device=machine.device,
        transforms=make_augment(config).train.values(), part=machine.processes.rank, parts=machine.processes.size,
    )  # fmt: skip


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
        **changed,
    )  # fmt: skip


def test_sampler(config: Config, images: ImageSet, split: str, device: torch.device) -> EpisodeSampler:
    """The sampler of the test's episodes: those of `evaluation.episodes_file`, where it is set."""
    sampler = episode_sampler(config, images, split, device)
    if file := config["evaluation"]["episodes_file"]:
        episode_file.share(Path(file), sampler, images, config["evaluation"]["episodes"])
    return sampler
