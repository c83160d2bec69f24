"""What a training needs, made and tried before its folder is there. Layer 4."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fewshot import assemble, evaluation, leaks, trained
from fewshot.algorithms.base import Algorithm
from fewshot.datasets.base import ImageSet
from fewshot.embedded import check_features
from fewshot.engine.machine import Machine
from fewshot.errors import InputError
from fewshot.identity import with_content, with_init_weights
from fewshot.plan import Plan
from fewshot.run_folder import RunFolder
from fewshot.sampler import EpisodeSampler
from fewshot.streams import BlockStream
from fewshot.trainer import Trainer

log = logging.getLogger("fewshot")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that a training needs, made and tried before its folder is there."""

    plan: Plan
    config: dict[str, Any]  # the plan's, with what `auto` came to
    machine: Machine
    images: ImageSet
    context: dict[str, Any]
    algorithm: Algorithm
    start: trained.Start | None
    trainer: Trainer
    batches: BlockStream
    val: EpisodeSampler | None
    test: EpisodeSampler
    overlap: str | None  # what the result has to say of classes with two uses
    classes: dict[str, Any]  # what the run folder keeps of them

    def validate(self) -> dict[str, float]:
        assert self.val is not None
        options = self.config["evaluation"]
        done = evaluation.evaluate(
            self.algorithm, self.val, episodes=options["val_episodes"], tasks=options["tasks"],
            dtype=self.machine.dtype, processes=self.machine.processes,
            cuda_graph=self.trainer.cuda_graph and self.machine.device.type == "cuda",
        )  # fmt: skip
        if bad := int((~done.finite).sum()):
            log.warning(
                "validation: predictions are not finite in %d of %d episodes and count as wrong", bad, len(done.finite)
            )
        return done.summary()


def prepare(plan: Plan, machine: Machine) -> Prepared:
    """Everything a training needs, tried on one episode: what would fail at the end, fails now.

    InputError where the configuration cannot be carried out, on these data or on this machine.
    """
    config = with_init_weights(plan.config)
    images = assemble.load_images(config).on(machine.device)
    config = with_content(config, images.protocol.get("content"))
    init = RunFolder(Path(config["init"])) if config["init"] else None
    overlap = leaks.check_training(config, images, init)
    context = assemble.data_context(config, images)
    algorithm = assemble.make_algorithm(config, context, config["seed"])
    assemble.check_storable(algorithm)
    start = None
    if init is not None:
        start = trained.start_from(init.path, config["init_part"], algorithm)
    algorithm.to(machine.device)
    machine = machine.at(_wanted_precision(plan), auto=algorithm.auto_precision)
    config["precision"] = machine.precision  # config.yaml and the identity state what computes, not `auto`
    _refuse_bf16(machine, algorithm)
    sampler = partial(assemble.episode_sampler, config, images, device=machine.device)
    trainer, options = assemble.make_trainer(config), config["evaluation"]
    trainer.optimizer_of(algorithm)
    _refuse_ensemble(options["ensemble"], trainer)
    made = Prepared(
        plan=plan, config=config, machine=machine, images=images, context=context, algorithm=algorithm, start=start,
        trainer=trainer, batches=assemble.training_stream(config, algorithm, images, machine),
        val=sampler(options["val_split"]) if trainer.val_every else None,
        test=assemble.test_sampler(config, images, options["test_split"], machine.device),
        overlap=overlap, classes=leaks.of_training(config, images, init),
    )  # fmt: skip
    probes = [made.val or sampler(config["train_split"])]
    if (fewest := probes[0].sizes.ways.low) < probes[0].ways:  # drawn: a head may serve the most alone
        few = {**config, "ways": fewest}
        probes.append(assemble.episode_sampler(few, images, config["train_split"], machine.device))
    with evaluation.evaluating(algorithm):
        check_features(algorithm, probes[0], machine.dtype)
    for probe in probes:
        evaluation.evaluate(algorithm, probe, episodes=1, tasks=1, dtype=machine.dtype, every_step=True)
    tell(images)
    return made


def _refuse_ensemble(members: int, trainer: Trainer) -> None:
    """InputError where there will not be as many checkpoints as the test takes together."""
    validations = -(-trainer.steps // trainer.val_every) if trainer.val_every else 0
    if members > 1 and (trainer.test_checkpoint == "last" or members > min(trainer.keep_best, validations)):
        raise InputError(
            f"evaluation.ensemble={members} takes the {members} checkpoints best in validation; that needs "
            f"trainer.keep_best={members} (here {trainer.keep_best}), as many validations ({validations}), and "
            "trainer.test_checkpoint=best"
        )


def tell(images: ImageSet) -> None:
    """Say what a user should know of the data."""
    for note in images.notes:
        log.warning("%s: %s", images.name, note)


def refuse_leak_before(first: Plan, plan: Plan) -> None:
    """InputError where `plan` may not start from the run `first`, before that one is trained."""
    init = RunFolder(Path(first.config["init"])) if first.config["init"] else None
    seen = leaks.trained_on(assemble.load_images(first.config), first.config["train_split"], init)
    images = assemble.load_images(plan.config)
    leaks.check_seen({f"trained on by init={plan.config['init']}": seen}, plan.config, images)


def _wanted_precision(plan: Plan) -> str:
    """What the configuration asks for; for a run with a fixed place `auto` is what it was when the run began."""
    if plan.config["precision"] == "auto" and plan.folder and (plan.folder / "run.json").exists():
        return str(RunFolder(plan.folder).config.get("precision", "auto"))
    return str(plan.config["precision"])


def _refuse_bf16(machine: Machine, algorithm: Algorithm) -> None:
    if machine.dtype is not None and algorithm.double_backward:
        raise InputError(
            "precision=bf16 changes a second-order meta-gradient by about 30 %; "
            "use precision=fp32 or tf32, or algorithm.first_order=true"
        )
