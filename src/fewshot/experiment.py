"""Objects in, a finished record out: training and evaluation from plain configurations. Layer 4.

The command line and Python users share it. Nothing here knows how a configuration was composed.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fewshot import assemble, changes, checkpoint, final_test, leaks, result, resume, trained
from fewshot.algorithms.base import Algorithm
from fewshot.engine.machine import Machine
from fewshot.engine.processes import ALONE, Processes
from fewshot.engine.progress import announced
from fewshot.ensemble import Ensemble
from fewshot.errors import FewshotError, InputError
from fewshot.held_run import HeldRun
from fewshot.identity import evaluation_identity, identity, with_content
from fewshot.loggers.base import Logger, RunInfo
from fewshot.ops.random import key
from fewshot.plan import Plan
from fewshot.prepare import Prepared, prepare, tell
from fewshot.run_folder import RunFolder
from fewshot.signals import Stopped, StopSignal
from fewshot.sizes import in_words
from fewshot.training_state import TrainingProgress

log = logging.getLogger("fewshot")
Draw = Callable[[RunFolder], None]  # the pictures of a finished run, which the loggers then have, too


def train(plan: Plan, machine: Machine, stop: StopSignal, draw: Draw) -> RunFolder:
    """Train, test once, and leave a complete record; an unfinished run of this identity is resumed.

    Raises Stopped after a signal, with the state saved; FewshotError where the run cannot be carried out.
    """
    with announced("preparing the data and the model"):
        made = prepare(plan, machine)
    processes = machine.processes
    loggers = assemble.make_loggers(made.config) if processes.first else []
    folder = _open(made)
    if folder.finished:  # by another process, since the plan was made
        folder.close()
        return folder
    _start_loggers(loggers, plan, folder, made.config, steps=made.trainer.steps, verb="train")
    status, content = "failed", None
    try:
        torch.manual_seed(key(made.config["seed"], "train"))
        with stop.deferred("the step ends and is saved"):
            progress = made.trainer.fit(
                made.algorithm, made.batches, made.validate, folder=folder, loggers=loggers, context=made.context,
                device=machine.device, dtype=made.machine.dtype, stop=stop, processes=processes,
            )  # fmt: skip
            for logger in loggers:
                logger.trained(progress.step)
            content = _test(made, folder, progress, stop)
            if processes.first:
                folder.write_result(content)
        if processes.first:
            draw(folder)
        status = "finished"
    except FewshotError as error:
        status = "stopped" if getattr(error, "signum", None) else "failed"
        raise
    finally:
        for logger in loggers:
            logger.finish(content, status)
        folder.close()
    return folder


def _open(made: Prepared) -> HeldRun:
    """The folder of the run: opened by the first process, which alone writes in it; the others know its path."""
    plan, processes = made.plan, made.machine.processes
    folder = None
    if processes.first and plan.folder:
        folder = resume.open_fixed(plan.folder, made.config, identity(made.config), plan.names)
    elif processes.first:
        folder = resume.open_resumed(plan.parent, made.config, plan.names)
    if folder:
        try:
            leaks.refuse_change(folder, made.classes, made.config, made.images)
        except InputError:
            folder.close()
            raise
        folder.keep_classes(made.classes)
    path = processes.broadcast(str(folder.path) if folder else None)
    return folder or HeldRun(Path(path))  # not locked: the first process holds it


def _start_loggers(
    loggers: Sequence[Logger], plan: Plan, folder: RunFolder, config: assemble.Config, *, steps: int, verb: str
) -> None:  # fmt: skip
    """Tell the views of the run; metrics.jsonl needs none of them. A sweep's runs are one group, named as it is."""
    saved = checkpoint.steps(folder.checkpoints)
    group = folder.path.resolve().parent.name
    tags = (plan.names["algorithm"], plan.names["dataset"], *(("sweep",) if plan.sweep else ()))
    info = RunInfo(
        folder=folder.path, name=plan.run_name, steps=steps, first_step=saved[-1] if saved else 0,
        id=f"{group}-{folder.path.name}" if plan.folder else folder.path.name, config=config, group=group,
        job_type=verb, tags=tags, label=f"{plan.label} seed={config['seed']}".strip(),
    )  # fmt: skip
    for logger in loggers:
        logger.start(info)


def _test(made: Prepared, folder: RunFolder, progress: TrainingProgress, stop: StopSignal) -> dict[str, Any]:
    """The test split, touched once, with the recipe's checkpoint; what result.json is to say."""
    config, processes = made.config, made.machine.processes
    which = made.trainer.test_checkpoint if progress.best else "last"
    stored, asked = processes.first and checkpoint.steps(folder.checkpoints), config["evaluation"]["ensemble"]
    algorithm, members = made.algorithm, min(asked, len(progress.kept))
    if 1 < asked > members:  # it stopped early, or one was lost: what there is, or the run would never end
        log.warning("evaluation.ensemble=%d, but the checkpoints that are left of the best are %d", asked, members)
    if members > 1:
        algorithm = _ensemble(algorithm, folder, members, processes)
    elif (
        model := processes.broadcast(checkpoint.load(folder.checkpoints, which)[1]["model"] if stored else None)
    ) is not None:
        checkpoint.load_into(algorithm, model)

    def before_batch() -> None:
        if (signum := processes.agree(stop.received)) is not None:
            raise Stopped(signum, f"stopped while testing; the same command goes on from {folder.path}")

    tested = final_test.Tested(
        config=config, names=made.plan.names, run_name=made.plan.run_name, algorithm=algorithm,
        images=made.images, split=config["evaluation"]["test_split"], sampler=made.test, machine=made.machine,
        which=which, step=progress.step, context=made.context, overlap=made.overlap,
        cuda_graph=made.trainer.cuda_graph,
    )  # fmt: skip
    untrained = partial(assemble.make_algorithm, config, made.context, config["seed"])
    outcome = final_test.run_test(tested, untrained=untrained, before_batch=before_batch)
    if processes.first:
        final_test.keep_episodes(folder, tested, outcome.done)
    return result.make_result(
        tested, outcome, identity=identity(config), train=_train_facts(made), val=result.val_facts(config, progress),
        paper=config["paper"], departures=made.plan.departures,
        losses=[row["train/loss"] for row in folder.metrics.read() if "train/loss" in row],
        cost=result.timing(progress, outcome.peak_memory_mb),
    )  # fmt: skip


def _ensemble(algorithm: Algorithm, folder: RunFolder, members: int, processes: Processes = ALONE) -> Ensemble:
    """The checkpoints best in validation, as the first process reads them."""
    states = checkpoint.load_best(folder.checkpoints, members) if processes.first else []
    return Ensemble(algorithm, processes.broadcast([state["model"] for state in states]))


def _train_facts(made: Prepared) -> dict[str, Any]:
    sizes: dict[str, Any] = {"ways": None, "shots": None, "queries": None, "tasks": None}
    sizes |= {key: in_words(value) for key, value in vars(made.algorithm.stream).items()}
    start = made.start._asdict() if made.start else None
    return sizes | {"sizes_drawn": made.batches.sizes_drawn, "split": made.config["train_split"], "init": start}


def evaluate(plan: Plan, machine: Machine, draw: Draw) -> RunFolder:
    """A trained run tested again, with a folder and a result.json of its own."""
    config, run = dict(plan.config), RunFolder(Path(plan.config["run"]))
    model = trained.restore(run, config["checkpoint"], config, trust=config["trust"])
    changes.refuse_idle(config, model.config, model.context, plan.choices, trained.stored_names(run)["algorithm"])
    images = assemble.load_images(config).on(machine.device)
    config = with_content(config, images.protocol.get("content"))
    trained.same_shape(images, model.context)
    algorithm = model.algorithm
    if (members := config["evaluation"]["ensemble"]) > 1:
        if model.which != "best":
            raise InputError(
                f"evaluation.ensemble={members} takes the checkpoints best in validation, not checkpoint={model.which}"
            )
        algorithm = _ensemble(algorithm, run, members)
    algorithm.to(machine.device)
    machine = machine.at(config["precision"], auto=algorithm.auto_precision)
    config["precision"] = machine.precision
    split = config["split"] or config["evaluation"]["test_split"]
    overlap = leaks.check_evaluation(config, run, images, split)
    augment = {**config["augment"], "train": model.config["augment"]["train"]}  # another test, the same training
    tested = final_test.Tested(
        config=config | {"augment": augment}, names=plan.names, run_name=plan.run_name, algorithm=algorithm,
        images=images, split=split,
        sampler=assemble.test_sampler(config, images, split, machine.device), machine=machine,
        which=model.which, step=model.step, context=model.context, overlap=overlap,
        cuda_graph=model.config["trainer"]["cuda_graph"],
    )  # fmt: skip
    tell(images)
    outcome = final_test.run_test(tested)
    ident = evaluation_identity(config)
    folder = (
        resume.open_fixed(plan.folder, config, ident, plan.names) if plan.folder
        else resume.open_new(plan.parent, config, ident, plan.names)
    )  # fmt: skip
    final_test.keep_episodes(folder, tested, outcome.done)
    paper = config["paper"] if config["paper"] != model.config["paper"] else None  # the run's own is of its own test
    sizes = {key: in_words(model.config[f"train_{key}"]) for key in ("ways", "shots", "queries")}
    content = result.make_result(
        tested, outcome, identity=ident, train=sizes, val=None, paper=paper, cost={}, run=str(run.path)
    )
    folder.write_result(content)
    draw(folder)
    loggers = assemble.make_loggers(config)
    _start_loggers(loggers, plan, folder, config, steps=0, verb="evaluate")
    for logger in loggers:
        logger.finish(content, "finished")
    folder.close()
    return folder
