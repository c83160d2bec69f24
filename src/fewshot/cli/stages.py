"""`init=experiment:NAME`: the finished run of a preset, which is trained first where there is none. Layer 6; no torch.

It is a run of its own in `output_dir`, resumable like any other; of several jobs that need it one trains it.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot.cli.compose import Composed, compose, config_dir_of_job
from fewshot.cli.overrides import override
from fewshot.errors import InputError
from fewshot.held_run import FolderInUse
from fewshot.identity import identity, with_init_weights
from fewshot.run_folder import RunFolder

if TYPE_CHECKING:
    from fewshot.engine.machine import Machine
    from fewshot.plan import Plan
    from fewshot.signals import StopSignal

PREFIX = "experiment:"
SHARED = ("data_dir", "cache_dir", "output_dir", "device", "threads")  # where the preset's run takes place, as ours
LOOK_SECONDS = 1.0  # between two looks at a run that another process trains
log = logging.getLogger("fewshot")


def named_preset(config: Mapping[str, Any]) -> str | None:
    """NAME of `init=experiment:NAME`."""
    init = str(config["init"] or "")
    return init.removeprefix(PREFIX) if init.startswith(PREFIX) else None


def identity_as_asked(config: Mapping[str, Any]) -> str:
    """Of a training that may start from a run which is still to be trained: that one counts by its own identity."""
    if named_preset(config) is None:
        return identity(with_init_weights(config))
    return identity({**config, "init_weights": identity_as_asked(compose_preset(config).config)})


def compose_preset(config: Mapping[str, Any]) -> Composed:
    """The preset's own configuration, on this run's machine. InputError where there is no such preset."""
    shared = [override(key, config[key]) for key in SHARED]
    preset = compose("config", [f"experiment={named_preset(config)}", *shared], config_dir_of_job())
    preset.config["logger"] = config["logger"]
    ours, its = config["dataset"], preset.config["dataset"]
    if ours["_target_"] == its["_target_"] and "root" in ours:  # where the same files are
        its["root"] = ours["root"]
    return preset


def with_init(plan: "Plan", machine: "Machine", stop: "StopSignal") -> "Plan":
    """The plan with a folder as its `init`, once the run in it is finished."""
    if named_preset(plan.config) is None:
        return plan
    from fewshot.plan import plan_training

    preset = compose_preset(plan.config)
    first = with_init(plan_training(preset.config, preset.choices), machine, stop)
    folder = _finished(first, plan, machine, stop)
    return replace(plan, config={**plan.config, "init": str(folder)})


def _finished(first: "Plan", plan: "Plan", machine: "Machine", stop: "StopSignal") -> Path:
    """The folder of the finished run `first`: found, waited for, or trained for `plan`."""
    from fewshot import experiment
    from fewshot.cli import show
    from fewshot.prepare import refuse_leak_before
    from fewshot.signals import Stopped

    processes, told = machine.processes, False
    while True:
        path, finished, in_use = processes.broadcast(_look(first) if processes.first else None)
        if finished:
            log.warning("init=%s is %s", plan.config["init"], path)
            return Path(path)
        if (signum := processes.agree(stop.received)) is not None:
            raise Stopped(signum, f"stopped while waiting for {path}; the same command goes on")
        if in_use:
            if not told:
                log.warning("init=%s: waiting for %s, which another process trains", plan.config["init"], path)
            told = True
            stop.sleep(LOOK_SECONDS)
            continue
        try:
            log.warning("init=%s is trained first, in %s", plan.config["init"], path)
            refuse_leak_before(first, plan)
            folder = experiment.train(replace(first, folder=Path(path)), machine, stop, show.draw)
        except FolderInUse:  # another process was faster
            if processes.size > 1:
                raise
        else:
            if processes.first:
                show.finished_run(folder)


def _look(first: "Plan") -> tuple[str, bool, bool]:
    """Folder of the preset's run, whether it is finished, whether a living process holds it."""
    config = with_init_weights(first.config)
    among = {"auto": ("fp32", "tf32", "bf16"), "tf32": ("fp32", "tf32")}  # a run's identity is of what it came to
    precisions = among.get(config["precision"], (config["precision"],))
    wanted = {identity({**config, "precision": precision}) for precision in precisions}
    output = Path(config["output_dir"])
    runs = [run for below in ("train/*/*", "sweeps/*/*") for run in RunFolder.listed(output, below)]
    runs = [run for run in runs if run.identity in wanted]
    for run in runs:
        if run.finished:
            return str(run.path), True, False
    path = next((run.path for run in runs), first.parent / identity(config))
    return str(path), RunFolder(path).finished, RunFolder(path).in_use


def check_init(config: Mapping[str, Any]) -> None:
    """InputError where `init` names no preset and no finished run; before anything is made of the rest."""
    if config["init"] and str(config["init"]) == PREFIX:
        raise InputError(f"init={PREFIX} names no preset; write init={PREFIX}NAME as in experiment=NAME")
    identity_as_asked(config)
