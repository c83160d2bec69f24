"""Our side, built as `fewshot train` builds it: the same configuration, machine set-up, constructors and outer step."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from plain import Shape, placed, random_tasks

from fewshot import assemble
from fewshot.algorithms.base import Algorithm
from fewshot.cli.compose import compose
from fewshot.datasets.base import ImageSet
from fewshot.engine.machine import Machine
from fewshot.episode import Episode
from fewshot.outer_step import OuterStep


class Ours(NamedTuple):
    config: dict[str, Any]
    machine: Machine
    algorithm: Algorithm
    step: OuterStep


def built(
    words: Sequence[str], *, size: int = 28, channels: int = 1, dtype: str = "float32", classes: int = 1000
) -> Ours:
    """What `fewshot train <words>` trains, with random weights."""
    config = compose("config", [*words, "logger=console"]).config
    machine = Machine.start(config["device"], config["threads"])
    context = {"image_shape": [channels, size, size], "train_classes": classes}
    algorithm = assemble.make_algorithm(config, context, config["seed"]).to(machine.device, getattr(torch, dtype))
    precision = config["precision"] if dtype == "float32" else "fp32"
    machine = machine.at(precision, auto=algorithm.auto_precision)
    trainer = assemble.make_trainer(config)
    step = OuterStep(
        algorithm, trainer.make_optimizer(list(algorithm.parameters())), device=machine.device, dtype=machine.dtype,
        gradient_clip=trainer.gradient_clip, gradient_clip_value=trainer.gradient_clip_value,
        cuda_graph=trainer.cuda_graph and machine.device.type == "cuda",
    )  # fmt: skip
    algorithm.train()
    return Ours(config, machine, algorithm, step)


def words(shape: Shape) -> list[str]:
    """The overrides of a meta-batch and its network."""
    return [
        "backbone=conv4" + ("_stride" if shape.downsampling == "stride" else ""), f"backbone.filters={shape.filters}",
        f"algorithm.stream.tasks={shape.tasks}", f"train_ways={shape.ways}", f"train_shots={shape.shots}",
        f"train_queries={shape.queries}", f"device={shape.device}", "trainer.optimizer.lr=0.001",
    ]  # fmt: skip


def for_shape(shape: Shape, *more: str) -> tuple[Ours, Episode]:
    """Weights and tasks as the plain side has them."""
    ours = built([*words(shape), *more], size=shape.size, channels=shape.channels, dtype=shape.dtype)
    placed(ours.algorithm, shape)
    classes = torch.arange(shape.ways, device=shape.device).repeat(shape.tasks, 1)
    return ours, Episode(*random_tasks(shape), classes)


def noise_images(classes: int, per_class: int, size: int = 28, channels: int = 1) -> ImageSet:
    """A data set in memory whose pixels mean nothing."""
    return image_set(torch.randint(0, 256, (classes * per_class, channels, size, size), dtype=torch.uint8), per_class)


def image_set(images: torch.Tensor, per_class: int) -> ImageSet:
    """`per_class` rows of the array are a class; all of them are in every role."""
    classes = len(images) // per_class
    return ImageSet(
        name="noise", images=images, offsets=torch.arange(classes + 1) * per_class,
        class_names=[str(c) for c in range(classes)], groups=["noise"] * classes, splits={"train": range(classes)},
    )  # fmt: skip
