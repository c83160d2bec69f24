"""Which folder a run writes in: a new one, or that of an unfinished run of the same identity. Layer 2."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fewshot.construct import construct
from fewshot.engine.code_version import code_version
from fewshot.errors import InputError
from fewshot.held_run import HeldRun
from fewshot.identity import computing, differing_keys, identity
from fewshot.run_folder import RunFolder

log = logging.getLogger("fewshot")
_ANEW = "resume=false starts a new run"


def check_writable(folder: Path) -> None:
    """Before any work: can the results be stored?"""
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write in {folder}: {error.strerror}; choose another output_dir") from error


def open_new(parent: Path, config: Mapping[str, Any], ident: str, names: Mapping[str, str]) -> HeldRun:
    """A new folder below `parent`, made and locked. names: group -> what was chosen, kept in run.json."""
    return HeldRun.create(parent, as_yaml(config), ident, names=dict(names))


def open_fixed(path: Path, config: Mapping[str, Any], ident: str, names: Mapping[str, str]) -> HeldRun:
    """The folder of a run whose place is fixed, a sweep's job: made, or resumed where it is unfinished."""
    there = (path / "run.json").exists()
    if (resume := str(config.get("resume", "auto")).lower()) not in ("auto", "true"):
        raise InputError(f"resume={resume} in a sweep, whose jobs go on by themselves; name=NEW starts another")
    folder = HeldRun.claim(path, as_yaml(config), ident, names=dict(names))
    return _going_on(folder, config) if there else folder


def open_resumed(parent: Path, config: Mapping[str, Any], names: Mapping[str, str]) -> HeldRun:
    """The folder of a run to resume, or a new one below `parent`, as the key `resume` says."""
    ident, resume = identity(config), str(config["resume"]).lower()
    if resume in ("auto", "true"):
        if (found := HeldRun.newest_unfinished(parent, ident)) is not None:
            return _going_on(found, config)
        if resume == "true":
            raise InputError(_nothing_to_resume(parent, config))
    elif resume != "false":
        path = Path(str(config["resume"]))
        if _is_longer(path, config):
            return _trained_longer(path, parent, config, names)
        return _named_folder(path, config, ident)
    return open_new(parent, config, ident, names)


def as_yaml(config: Mapping[str, Any]) -> str:
    """The text of config.yaml."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=1000)


def _named_folder(path: Path, config: Mapping[str, Any], ident: str) -> HeldRun:
    if not (path / "config.yaml").is_file():
        raise InputError(f"resume={path} is not a run folder; use auto, true, false or a folder with a config.yaml")
    theirs = RunFolder(path).stored_config
    if RunFolder(path).about["identity"] != ident:
        if identity(theirs) == ident:
            raise InputError(f"{path} was begun with another configuration, its config.yaml was edited; {_ANEW}")
        keys = "; ".join(differing_keys(config, theirs)[:8])
        raise InputError(f"{path} was run with another configuration ({keys}); use resume=false for a new run")
    folder = HeldRun.open(path)
    if folder.finished:
        folder.close()
        raise InputError(
            f"{path} is finished; trainer.steps=MORE trains it longer, fewshot evaluate run={path} tests it again, "
            "resume=false starts a new run"
        )
    return _going_on(folder, config)


def _is_longer(path: Path, config: Mapping[str, Any]) -> bool:
    """Whether a run differs from `config` in that it has fewer steps, and in nothing else. InputError where its
    schedule ends with its steps: a longer one would have had other rates from the start."""
    if not (path / "config.yaml").is_file():
        return False
    ours, theirs = computing(config), computing(RunFolder(path).stored_config)
    more, steps = ours.get("trainer.steps"), theirs.get("trainer.steps")
    differing = {key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)}
    follow = {key for key in differing if key.startswith("trainer.schedule.")
              and (ours.get(key), theirs.get(key)) == (more, steps)}  # fmt: skip
    if differing - follow != {"trainer.steps"} or not steps or more < steps:
        return False
    new, old = (construct(c["trainer"]["schedule"], "trainer.schedule") for c in (config, RunFolder(path).config))
    if other := [step for step in range(steps) if new(step) != old(step)]:
        raise InputError(
            f"{path} was trained by a schedule of {steps} steps; one of {more} has other rates from step {other[0]} "
            f"on: resume= goes on with trainer/schedule=constant or decay only; init={path} starts from its weights"
        )
    return True


def _trained_longer(path: Path, parent: Path, config: Mapping[str, Any], names: Mapping[str, str]) -> HeldRun:
    """A run of its own that begins where the one in `path` has ended: with its checkpoints and its rows."""
    if (found := HeldRun.newest_unfinished(parent, identity(config))) is not None:
        return _going_on(found, config)
    ended = HeldRun.open(path)  # locked: nobody writes in it while it is read
    try:
        folder = open_new(parent, config, identity(config), names)
        shutil.copytree(ended.checkpoints, folder.checkpoints, dirs_exist_ok=True)
        for record in ("metrics.jsonl", "classes.json"):
            if (ended.path / record).exists():
                shutil.copy(ended.path / record, folder.path / record)
    finally:
        ended.close()
    before = RunFolder(path).config["trainer"]["steps"]
    log.warning("%s goes on in %s: trainer.steps %d -> %d", path, folder.path, before, config["trainer"]["steps"])
    return folder


def _going_on(folder: HeldRun, config: Mapping[str, Any]) -> HeldRun:
    """An unfinished run, locked; InputError where its config.yaml is not what it began with."""
    try:
        theirs = folder.stored_config
        if "run" not in theirs and (keys := "; ".join(differing_keys(config, theirs)[:8])):
            raise InputError(f"{folder.path}/config.yaml was edited since the run began ({keys}); put it back")
    except InputError as error:
        folder.close()
        raise InputError(f"{error}; {_ANEW}") from error
    log.warning("going on with %s", folder.path)
    if (begun := folder.about.get("code", code_version())) != code_version():
        log.warning("it was begun with fewshot %s, and goes on with %s", begun, code_version())
    return folder


def _nothing_to_resume(parent: Path, config: Mapping[str, Any]) -> str:
    others = [run.path for run in RunFolder.listed(parent) if not run.finished]
    if not others:
        return f"resume=true, but no unfinished run of this configuration is in {parent}; use resume=auto"
    keys = "; ".join(differing_keys(config, RunFolder(others[0]).stored_config)[:8])
    keys = keys or "nothing: it is in use by another process"
    return f"resume=true, but the unfinished run {others[0]} differs in: {keys}; use resume=auto for a new run"
