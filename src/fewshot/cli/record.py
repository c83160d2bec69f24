"""Opening and closing the record of a run: folder, loggers, the one test, result. Layer 6."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fewshot import checkpoint, result, shown
from fewshot.algorithms.base import Algorithm
from fewshot.cli import build
from fewshot.cli.identity import job_identity
from fewshot.datasets.base import ImageSet
from fewshot.engine.processes import Processes
from fewshot.engine.runtime import peak_memory_mb
from fewshot.errors import FewshotError, InputError
from fewshot.evaluation import Evaluation, evaluate, raw_pixels
from fewshot.loggers.base import Logger, RunInfo
from fewshot.run_folder import RunFolder
from fewshot.sampler import EpisodeSampler
from fewshot.signals import Stopped, StopSignal
from fewshot.trainer import Progress

log = logging.getLogger("fewshot")


def sweep_folder(verb: str, config: build.Config) -> Path | None:
    """In a sweep, under whatever launcher: <hydra.sweep.dir>/<identity>, where the same command finds it again."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return None
    return Path(hydra.sweep.dir) / job_identity(verb, config)


def wanted_precision(config: build.Config, path: Path | None) -> str:
    """What the configuration asks for; for a sweep's job that goes on, `auto` is what it was when it began."""
    if config["precision"] == "auto" and path and (path / "run.json").exists():
        return str(OmegaConf.load(path / "config.yaml").precision)
    return str(config["precision"])


def open_folder(cfg: DictConfig, config: build.Config, root: Path, name: str, processes: Processes) -> RunFolder:
    """The folder of the run: opened by the first process, which alone writes in it; the others know its path."""
    folder = _opened(cfg, config, root, name) if processes.first else None
    path = processes.broadcast(str(folder.path) if folder else None)
    return folder or RunFolder(Path(path))


def _opened(cfg: DictConfig, config: build.Config, root: Path, name: str) -> RunFolder:
    """The folder of a run to go on with, or a new one, as `resume` says."""
    ident = build.identity(config)
    resume = str(cfg.resume).lower()
    if resume in ("auto", "true"):
        found = RunFolder.newest_unfinished(root, name, ident)
        if found is not None:
            log.warning("going on with %s", found.path)
            return found
        if resume == "true":
            raise InputError(_nothing_to_resume(config, root, name))
    elif resume != "false":
        return _named_folder(Path(str(cfg.resume)), config, ident)
    return RunFolder.create(root, name, OmegaConf.to_yaml(OmegaConf.create(config)), ident)


def open_sweep_folder(cfg: DictConfig, config: build.Config, path: Path) -> RunFolder:
    """The folder of a sweep's job: gone on with where it is unfinished."""
    there = (path / "run.json").exists()
    if (resume := str(cfg.resume).lower()) not in ("auto", "true"):
        raise InputError(f"resume={resume} in a sweep, whose jobs go on by themselves; name=NEW starts another")
    folder = RunFolder.claim(path, OmegaConf.to_yaml(OmegaConf.create(config)), build.identity(config))
    if there:
        log.warning("going on with %s", path)
    return folder


def _named_folder(path: Path, config: build.Config, ident: str) -> RunFolder:
    if not (path / "config.yaml").is_file():
        raise InputError(f"resume={path} is not a run folder; use auto, true, false or a folder with a config.yaml")
    theirs = build.plain(OmegaConf.load(path / "config.yaml"))  # type: ignore[arg-type]
    if build.identity(theirs) != ident:
        keys = "; ".join(build.differing_keys(config, theirs)[:8])
        raise InputError(f"{path} was run with another configuration ({keys}); use resume=false for a new run")
    folder = RunFolder.open(path)
    if folder.finished:
        folder.close()
        raise InputError(f"{path} is finished; use fewshot evaluate run={path}, or resume=false for a new run")
    log.warning("going on with %s", path)
    return folder


def _nothing_to_resume(config: build.Config, root: Path, name: str) -> str:
    others = [run.path for run in RunFolder.identities(root, name) if not run.finished]
    if not others:
        return f"resume=true, but no unfinished run of this configuration is in {root / name}; use resume=auto"
    theirs = build.plain(OmegaConf.load(others[0] / "config.yaml"))  # type: ignore[arg-type]
    keys = "; ".join(build.differing_keys(config, theirs)[:8]) or "nothing: it is in use by another process"
    return f"resume=true, but the unfinished run {others[0]} differs in: {keys}; use resume=auto for a new run"


def start_from(run: RunFolder, algorithm: Algorithm, config: build.Config) -> None:
    """Give the algorithm the weights that a finished run was tested with.

    InputError where there are none, or they do not fit, or what that run was trained on may be in this one's test.
    """
    if not run.finished or not checkpoint.steps(run.checkpoints):
        raise InputError(f"init={run.path} is not the folder of a finished training run; choose one that has ended")
    theirs = build.plain(OmegaConf.load(run.path / "config.yaml"))  # type: ignore[arg-type]
    if theirs["dataset"]["_target_"] == config["dataset"]["_target_"]:
        own, other = ({key: c[key] for key in ("dataset", "train_split")} for c in (config, theirs))
        if keys := build.differing_keys(own, other):
            raise InputError(
                f"init={run.path} was trained on other classes, which may be in this run's test ({'; '.join(keys)}); "
                "use the same dataset and train_split"
            )
    try:
        _, state = checkpoint.load(run.checkpoints, run.result()["protocol"]["checkpoint_rule"])
        checkpoint.load_into(algorithm, state["model"])
    except FewshotError as error:
        raise InputError(f"init={run.path}: {error}") from error


def start_loggers(loggers: Sequence[Logger], config: build.Config, folder: RunFolder, name: str, steps: int) -> None:
    """Tell the views of the run; metrics.jsonl needs none of them. A sweep's runs are one group, named as it is."""
    saved = checkpoint.steps(folder.checkpoints)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    group = folder.path.resolve().parent.name
    tags = (chosen(config["algorithm"]), short(config["dataset"]), *(("sweep",) if sweep else ()))
    info = RunInfo(
        folder=folder.path, name=name, id=f"{group}-{folder.path.name}" if sweep else folder.path.name, steps=steps,
        first_step=saved[-1] if saved else 0, config=config, group=group, job_type="train", tags=tags,
    )  # fmt: skip
    for logger in loggers:
        logger.start(info)


def test(
    cfg: DictConfig, config: build.Config, folder: RunFolder, name: str, images: ImageSet, algorithm: Algorithm,
    sampler: EpisodeSampler, progress: Progress, machine: build.Machine, stop: StopSignal,
) -> dict[str, Any]:  # fmt: skip
    """The test split, touched once: the recipe's checkpoint, and two baselines on the same episodes."""
    which = cfg.trainer.test_checkpoint if progress.best else "last"
    processes = machine.processes
    stored = processes.first and checkpoint.steps(folder.checkpoints)
    model = processes.broadcast(checkpoint.load(folder.checkpoints, which)[1]["model"] if stored else None)
    if model is not None:
        checkpoint.load_into(algorithm, model)
    options: dict[str, Any] = {"episodes": cfg.evaluation.episodes, "tasks": cfg.evaluation.tasks}
    shared = options | {"dtype": machine.dtype, "processes": processes}

    def between() -> None:
        if (signum := processes.agree(stop.received)) is not None:
            raise Stopped(signum, f"stopped while testing; the same command goes on from {folder.path}")

    done = evaluate(algorithm, sampler, **shared, every_step=True, between=between)
    peak = peak_memory_mb(machine.device)
    untrained = build.make_algorithm(cfg, build.data_context(cfg, images), cfg.seed).to(machine.device)
    base = evaluate(untrained, sampler, **shared, between=between)
    if processes.first:
        save_episodes(folder, done)
        save_shown(folder, done, algorithm, sampler, images, machine)
    baselines = {
        "raw_pixels": named_mean(raw_pixels(sampler, **options)),
        "untrained": named_mean(base.mean),
    }
    steps = max(progress.step, 1)
    return head(cfg, name, cfg.evaluation.test_split, progress.step) | {
        "train": _train_sizes(cfg, algorithm) | {"shift": cfg.train_shift, "init": cfg.init},
        "baselines": baselines,
        "test": done.summary(),
        "val": ({k: v for k, v in progress.best.items() if k != "step"}
                | {"episodes": cfg.evaluation.val_episodes, "best_step": progress.best["step"]})
        if progress.best else None,
        "paper": result.verdict(config["paper"], done.mean.value, done.mean.ci95),
        "protocol": result.protocol(images, algorithm, protocol_facts(cfg, which, sampler)),
        "timing": {
            "train_seconds": progress.seconds,
            "seconds_per_step": progress.seconds / steps,
            "data_seconds_per_step": progress.data_seconds / steps,
            "test_episodes_per_second": len(done.accuracy) / done.seconds,
            "peak_memory_mb": peak,
        },
        "environment": result.environment(machine.device, machine.precision, processes.size),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "identity": build.identity(config),
    }  # fmt: skip


def head(cfg: DictConfig, name: str, split: str, steps: int) -> dict[str, Any]:
    """What was asked."""
    return {
        "schema": result.SCHEMA, "name": name, "algorithm": chosen(cfg.algorithm), "dataset": short(cfg.dataset),
        "split": split, "ways": cfg.ways, "shots": cfg.shots, "queries": cfg.queries, "seed": cfg.seed,
        "steps": steps,
    }  # fmt: skip


def chosen(algorithm: Mapping[str, Any]) -> str:
    """The algorithm by the name of its YAML file, which tells fomaml from maml; where none was chosen, its class."""
    return HydraConfig.get().runtime.choices.get("algorithm") or short(algorithm)


def short(node: Mapping[str, Any]) -> str:
    """`fewshot.algorithms.maml.MAML` -> `maml`; a user's `mine.Net` -> `net`."""
    return str(node["_target_"]).rsplit(".", 1)[-1].lower()


def protocol_facts(cfg: DictConfig, which: str, sampler: EpisodeSampler) -> dict[str, Any]:
    return {"queries": cfg.queries, "checkpoint_rule": which, "within_groups": cfg.within_groups,
            "skipped_groups": sampler.skipped_groups, "eval_seed": cfg.eval_seed}  # fmt: skip


def named_mean(mean: Any) -> dict[str, float]:
    return {"accuracy": mean.value, "accuracy_ci95": mean.ci95}


def save_episodes(folder: RunFolder, done: Evaluation) -> None:
    """Per episode: classes [E, N], accuracy [E], accuracy after each inner step [E, S+1]; percent."""
    folder.episodes.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder.episodes / "test.npz",
        classes=done.classes.numpy(),
        accuracy=done.accuracy.numpy(),
        step_accuracy=done.step_accuracy.numpy(),
    )


def save_shown(
    folder: RunFolder, done: Evaluation, algorithm: Algorithm, sampler: EpisodeSampler, images: ImageSet,
    machine: build.Machine,
) -> None:  # fmt: skip
    """The test's first episode and its hardest, for pictures, after `save_episodes`. Never the end of a run."""
    try:
        episodes = [
            shown.adapt_and_show(algorithm, sampler, images.class_names, episode=k, dtype=machine.dtype)
            for k in shown.first_and_hardest(done.accuracy)
        ]
        shown.save(folder.episodes / "shown.npz", episodes)
    except Exception as error:  # a user's algorithm may have no backbone, or one that takes no images
        log.warning("no episodes are kept for pictures: %s", " ".join(str(error).split()) or type(error).__name__)


def draw_figures(folder: RunFolder) -> None:
    """Fill `figures/` from what the folder holds. The run is finished by then: this never fails it."""
    try:
        from fewshot.report import figures  # late: half a second

        figures.draw_run(folder)
    except Exception as error:
        log.warning("no figures in %s: %s", folder.figures, " ".join(str(error).split()) or type(error).__name__)


def _train_sizes(cfg: DictConfig, algorithm: Algorithm) -> dict[str, Any]:
    wish = vars(algorithm.stream)
    return {"ways": None, "shots": None, "queries": None, "tasks": None} | wish | {"split": cfg.train_split}
