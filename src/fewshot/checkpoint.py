"""The checkpoints of a run: which are kept, which is the best, and how one is saved and found again. Layer 1.

A checkpoint is a folder `<step>/` with the files of `stored_state`. It is written beside its place, synced and renamed:
a process that is killed at any moment leaves whole checkpoints only.
"""

import logging
import math
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fewshot import records, stored_state
from fewshot.engine.durable import sync
from fewshot.errors import FewshotError, InputError, some
from fewshot.stored_state import DamagedState

_LOG = logging.getLogger("fewshot")
_STEP = re.compile(r"([0-9]+)|\.([0-9]+)-old")  # a checkpoint, in its place or moved aside for its successor
_LEFTOVER = re.compile(r"\.[0-9]+-[0-9]+")  # left by a save that was killed


def save(folder: Path, step: int, state: Mapping[str, Any], *, best: bool = False) -> Path:
    """Store `state` as `<folder>/<step>/` and point `last`, and `best` if asked, at it.

    state: see `stored_state.packed`. Kept are this checkpoint, the one before it and the best; those of later steps
    are removed: the run was resumed from before them. The best ones are those in the state's `progress`: `best`, and
    the list `kept` of those to be tested together.
    Raises FewshotError where the disk cannot be written; earlier checkpoints are then unchanged.
    """
    files = stored_state.packed(step, state)
    pointers = ("best", "last") if best else ("last",)
    temporary = folder / f".{step}-{os.getpid()}"
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            sync(folder.parent)
        shutil.rmtree(temporary, ignore_errors=True)  # process ids are reused, soon in containers
        temporary.mkdir()
        for name, data in (files | dict.fromkeys(pointers, f"{step}\n".encode())).items():
            (temporary / name).write_bytes(data)
        _install(temporary, folder, step)
        for pointer in pointers:
            (folder / str(step) / pointer).rename(folder / pointer)
        sync(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _disk_error(folder, step, sum(map(len, files.values())), error) from error
    prune(folder, step, state)
    return folder / str(step)


def load(folder: Path, which: str | int = "last") -> tuple[int, dict[str, Any]]:
    """Read a checkpoint back as (step, state), hashes verified. which: `last`, `best`, or a step.

    For `last` a damaged checkpoint is passed over, with a warning, for the newest intact one before it. `best` is what
    the progress in that one says, whose hash is verified; its pointer is looked at only where there is no progress.
    Raises FewshotError where there is none, and always on a pickle in place of a state or another format.
    """
    step = _pointed(folder, which) if isinstance(which, str) else which
    if which == "last":
        return _newest_intact(folder, step)
    if which == "best" and steps(folder):
        last, state = _newest_intact(folder, _pointed(folder, "last"), warn=False)
        step = _best(folder, state)
        if step == last:
            return last, state
    if step is None or step not in steps(folder):
        raise FewshotError(f"no checkpoint '{which}' in {folder}; use 'last' or one of {steps(folder)}")
    try:
        return step, _read(folder, step)
    except DamagedState as error:
        raise FewshotError(
            f"checkpoint '{which}' of {folder} is damaged ({error}); use checkpoint=last to evaluate; to go on "
            f"training without it, remove {folder / str(step)}"
        ) from error


def load_best(folder: Path, count: int) -> list[dict[str, Any]]:
    """The states of the `count` checkpoints best in validation, the best first. InputError where fewer were kept."""
    kept = [int(row["step"]) for row in (load(folder)[1].get("progress") or {}).get("kept", ())]
    if len(kept) < count:
        raise InputError(
            f"evaluation.ensemble={count}, but the best checkpoints that {folder.parent} has kept are {len(kept)}; "
            f"lower it, or train with trainer.keep_best={count} and as many validations"
        )
    return [load(folder, step)[1] for step in kept[:count]]


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, damaged or not, in rising order; empty before the first save."""
    return sorted(_present(folder))


def load_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Strict `load_state_dict`; where keys or shapes differ, FewshotError names them in one line."""
    own = module.state_dict()
    both = [key for key in own if key in tensors and tensors[key].shape != own[key].shape]
    differences = {
        "missing": [key for key in own if key not in tensors],
        "not in the model": [key for key in tensors if key not in own],
        "other shape": [f"{key} {list(tensors[key].shape)}, model {list(own[key].shape)}" for key in both],
    }
    if listed := [f"{what}: {some(keys, 5)}" for what, keys in differences.items() if keys]:
        raise FewshotError(
            f"the checkpoint does not fit this {type(module).__name__}: {'; '.join(listed)}; "
            "use the configuration it was trained with"
        )
    module.load_state_dict(tensors)


def _read(folder: Path, step: int) -> dict[str, Any]:
    """The state of one step, wherever its folder is at the moment; errors as of `stored_state.read`."""
    return stored_state.read(_present(folder).get(step, folder / str(step)), step)


def _newest_intact(folder: Path, pointed: int | None, *, warn: bool = True) -> tuple[int, dict[str, Any]]:
    """The checkpoint at the pointer, else the one before it, and so on.

    One newer than the pointer is unfinished, or from before the run was resumed at an earlier step: it comes last.
    """
    newest = math.inf if pointed is None else pointed
    candidates = {*steps(folder), *(() if pointed is None else (pointed,))}
    faults: list[str] = []
    for step in sorted(candidates, key=lambda step: (step > newest, -step)):
        try:
            state = _read(folder, step)
        except DamagedState as error:
            faults.append(str(error))
            continue
        if faults and warn:
            _LOG.warning("damaged checkpoint in %s: %s; using step %d", folder, "; ".join(faults), step)
        return step, state
    raise FewshotError(f"no intact checkpoint in {folder}: {'; '.join(faults) or 'it holds none'}; start a new run")


def _install(temporary: Path, folder: Path, step: int) -> None:
    """Sync and rename into place; an existing one is moved aside first, where `_present` still finds it."""
    with ThreadPoolExecutor() as pool:  # at the same time: the disk then waits once, not for each file
        list(pool.map(sync, [temporary, *temporary.iterdir()]))
    final, aside = folder / str(step), folder / f".{step}-old"
    if final.exists():
        shutil.rmtree(aside, ignore_errors=True)
        final.rename(aside)
    temporary.rename(final)


def _pointed(folder: Path, pointer: str) -> int | None:
    try:
        return int(records.content(folder / pointer))
    except (OSError, ValueError):  # Damaged is one
        return None


def _best(folder: Path, state: Mapping[str, Any]) -> int | None:
    """The step of the best checkpoint, as the progress in a state says it; without one, as the pointer does."""
    best = (state.get("progress") or {}).get("best")
    return int(best["step"]) if best else _pointed(folder, "best")


def _present(folder: Path) -> dict[int, Path]:
    """Folders by step; one put aside ('.' sorts first) counts only where its successor is missing."""
    matches = ((path, _STEP.fullmatch(path.name)) for path in sorted(folder.glob("*")))
    return {int(match[1] or match[2]): path for path, match in matches if match}


def prune(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Remove what `save` of this step and state does not keep, and what killed saves have left."""
    present = _present(folder)
    keep = {step, max((other for other in present if other < step), default=step), _best(folder, state)}
    keep |= {row["step"] for row in (state.get("progress") or {}).get("kept", ())}
    kept = {present[other] for other in keep if other in present}
    for path in folder.glob("*"):
        if path not in kept and (_STEP.fullmatch(path.name) or _LEFTOVER.fullmatch(path.name)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _disk_error(folder: Path, step: int, needed: int, error: OSError) -> FewshotError:
    place = folder.resolve()
    mount = next(path for path in (place, *place.parents) if path.is_mount())
    return FewshotError(
        f"cannot save checkpoint {step} on {mount}: {error.strerror} ({needed} bytes needed, "
        f"{shutil.disk_usage(mount).free} free); earlier checkpoints are kept; make room there and resume"
    )
