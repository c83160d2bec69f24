"""From a composed configuration to objects: the only place where `_target_`s become instances. Layer 6."""

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra._internal.utils import _locate  # hydra.utils.get_object also logs what it raises
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from fewshot.algorithms.base import Algorithm
from fewshot.cli.identity import Config as Config
from fewshot.cli.identity import differing_keys as differing_keys
from fewshot.cli.identity import flatten as flatten
from fewshot.cli.identity import identity as identity
from fewshot.cli.identity import plain as plain
from fewshot.datasets.base import ImageSet
from fewshot.engine import runtime
from fewshot.engine.processes import Processes, join
from fewshot.errors import FewshotError, InputError
from fewshot.sampler import EpisodeSampler
from fewshot.trainer import Trainer


class Machine(NamedTuple):
    device: torch.device
    processes: Processes
    precision: str = "fp32"
    dtype: torch.dtype | None = None  # of autocast


def start_machine(config: Mapping[str, Any]) -> Machine:
    """Allocator, the other processes of the run, threads and device; before the first large tensor."""
    runtime.keep_freed_memory()
    processes = join()
    torch.set_num_threads(config["threads"] or runtime.threads_per_process(processes.local_size))
    device = runtime.pick_device(config["device"], processes)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Machine(device, processes)


def with_precision(machine: Machine, wanted: str, algorithm: Algorithm) -> Machine:
    """The machine set to a precision: what `wanted` comes to for this algorithm on the first process's device."""
    precision = runtime.pick_precision(wanted, machine.device, auto=algorithm.auto_precision)
    precision = machine.processes.broadcast(precision)
    return machine._replace(precision=precision, dtype=runtime.set_precision(precision))


def construct(node: DictConfig, where: str, **context: Any) -> Any:
    """Instantiate a `_target_`, with those of `context` that its constructor names as parameters."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise InputError(f"{where} has no `_target_`, the import path of its class")
    try:
        target = _locate(node["_target_"])
    except Exception as error:
        reason = error.__cause__ or error
        raise InputError(
            f"{where}: cannot import '{node['_target_']}' ({type(reason).__name__}: {_first_line(reason)}); "
            f"the working directory is importable"
        ) from error
    try:
        wanted = inspect.signature(target).parameters
        given = {k: v for k, v in context.items() if k in wanted}
        return instantiate(node, _partial_=True, _convert_="all")(**given)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, FewshotError):
            raise cause from error
        raise InputError(f"{where}: {_first_line(cause or error)}") from error
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise InputError(f"{where}: {_first_line(error)}; its keys are: {', '.join(wanted)}") from error


def make_trainer(cfg: DictConfig) -> Trainer:
    """The trainer, its optimiser's arguments tried on one number: their errors would come in mid-run otherwise."""
    trainer = construct(cfg.trainer, "trainer")
    try:
        trainer.make_optimizer([torch.zeros(1, requires_grad=True)])
    except (TypeError, ValueError) as error:
        raise InputError(f"trainer.optimizer: {_first_line(error)}") from error
    return trainer


def load_images(cfg: DictConfig) -> ImageSet:
    """The configured data set."""
    images = construct(cfg.dataset, "dataset").load()
    if not isinstance(images, ImageSet):
        raise InputError(f"dataset: {cfg.dataset['_target_']}.load() gave a {type(images).__name__}, not an ImageSet")
    return images


def data_context(cfg: DictConfig, images: ImageSet) -> dict[str, Any]:
    """What constructors are told of the data; a checkpoint keeps it, for evaluation on other data."""
    return {"image_shape": list(images.image_shape), "train_classes": len(images.split(cfg.train_split))}


def make_backbone(cfg: DictConfig, context: Mapping[str, Any], seed: int) -> nn.Module:
    """With weights drawn from `seed`, on the CPU."""
    torch.manual_seed(seed)
    backbone = construct(cfg.backbone, "backbone", **context)
    if not isinstance(getattr(backbone, "out_features", None), int):
        raise InputError(
            f"backbone: {cfg.backbone['_target_']} has no whole number `out_features`, the width of its embedding"
        )
    return backbone


def make_algorithm(cfg: DictConfig, context: Mapping[str, Any], seed: int) -> Algorithm:
    """Backbone and algorithm with weights drawn from `seed`, on the CPU."""
    backbone = make_backbone(cfg, context, seed)
    return construct(cfg.algorithm, "algorithm", backbone=backbone, ways=cfg.train_ways, **context)


def episode_sampler(cfg: DictConfig, images: ImageSet, split: str, device: torch.device) -> EpisodeSampler:
    """Validation or test episodes: they depend on `eval_seed`, not on `seed`."""
    return EpisodeSampler(
        images, split, ways=cfg.ways, shots=cfg.shots, queries=cfg.queries, seed=cfg.eval_seed,
        within_groups=cfg.within_groups, device=device,
    )  # fmt: skip


def run_name(config: Mapping[str, Any], choices: Mapping[str, str | None]) -> str:
    """<algorithm>_<dataset>_<ways>w<shots>s unless the configuration names the run."""
    if config["name"]:
        return str(config["name"])
    what = [choices.get("algorithm") or "algorithm", choices.get("dataset") or "dataset"]
    return "_".join([*(w.replace("/", "-") for w in what), f"{config['ways']}w{config['shots']}s"])


def check_writable(folder: Path) -> None:
    """Before any work: can the results be stored?"""
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write in {folder}: {error.strerror}; choose another output_dir") from error


def memory_advice(cfg: DictConfig) -> str:
    """The settings that lower memory most, with their present values."""
    stream = cfg.algorithm.get("stream", {})
    key = "tasks" if "tasks" in stream else "batch_size"
    settings = [f"algorithm.stream.{key}={stream.get(key)}"]
    if "task_chunk" in cfg.algorithm:
        settings.append(f"algorithm.task_chunk={cfg.algorithm.task_chunk}")
    settings += [f"evaluation.tasks={cfg.evaluation.tasks}", f"train_queries={cfg.train_queries}"]
    advice = ", ".join(settings[:3])
    return f"{advice}; or set algorithm.checkpoint_inner=true" if _may_checkpoint(cfg) else advice


def _may_checkpoint(cfg: DictConfig) -> bool:
    options = cfg.algorithm
    return not options.get("checkpoint_inner", True) and not options.get("first_order", False)


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).strip().split("\n")[0].split())
