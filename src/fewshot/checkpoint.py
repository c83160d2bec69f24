"""Durable save and verified load of state trees. Layer 1.

A checkpoint is a folder `<step>/` of three files: `state.safetensors` (every tensor), `state.json` (the tree
around them) and `manifest.json` (size and sha256 of both). It is written beside its place, synced, and
renamed: a process killed at any moment leaves whole checkpoints only. Nothing is ever unpickled.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import shutil
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor, nn

from fewshot import records
from fewshot.engine.durable import sync
from fewshot.errors import FewshotError, InputError

FORMAT = 1
_STATE_FILES = ("state.safetensors", "state.json")
_LOG = logging.getLogger("fewshot")
_STEP = re.compile(r"([0-9]+)|\.([0-9]+)-old")  # a checkpoint, in its place or moved aside for its successor
_LEFTOVER = re.compile(r"\.[0-9]+-[0-9]+")  # left by a save that was killed


class _DamagedError(FewshotError):
    """This checkpoint cannot be used; perhaps an older one can."""


def save(folder: Path, step: int, state: Mapping[str, Any], *, best: bool = False) -> Path:
    """Store `state` as `<folder>/<step>/` and point `last`, and `best` if asked, at it.

    state: nested dicts (str or int keys), lists and tuples of tensors (any device and layout, shared or not;
    they come back contiguous and on the CPU) and None, bool, int, float, str. Kept are this checkpoint, the
    one before it and the best; those of later steps are removed: the run was resumed from before them.
    The best ones are those in its `progress`: `best`, and the list `kept` of those to be tested together.
    Raises FewshotError where the disk cannot be written; earlier checkpoints are then unchanged.
    """
    tensors: dict[str, Tensor] = {}
    tree = {"format": FORMAT, "tree": _flatten(state, "state", tensors)}
    files = {"state.safetensors": bytes_of(tensors), "state.json": json.dumps(tree, allow_nan=False).encode()}
    files["manifest.json"] = _manifest(step, files)
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
    except _DamagedError as error:
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
    listed = [
        f"{what}: {', '.join(keys[:5])}" + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
        for what, keys in differences.items()
        if keys
    ]
    if listed:
        raise FewshotError(
            f"the checkpoint does not fit this {type(module).__name__}: {'; '.join(listed)}; "
            "use the configuration it was trained with"
        )
    module.load_state_dict(tensors)


def storable(state: Mapping[str, Any]) -> None:
    """TypeError, which says what, where a checkpoint cannot hold the state."""
    json.dumps(_flatten(state, "state", {}), allow_nan=False)


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON form of a tree: dicts, tuples, tensors and non-finite floats become one-key objects."""
    if isinstance(value, Tensor):
        while path in tensors:  # {"a/b": t} beside {"a": {"b": t}}
            path += "'"
        # A fresh plain tensor: safetensors refuses views, shared storage and channels_last.
        tensors[path] = torch.empty(value.shape, dtype=value.dtype, device="cpu").copy_(value.detach())
        return {"tensor": path}
    if isinstance(value, Mapping):
        if other := [key for key in value if not isinstance(key, str | int)]:
            raise TypeError(f"{path} has the key {other[0]!r}; a checkpoint stores str and int keys")
        return {"dict": [[key, _flatten(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_flatten(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path} is a {type(value).__name__}; a checkpoint stores tensors and plain JSON types")


def _unflatten(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_unflatten(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "dict":
        return {key: _unflatten(item, tensors) for key, item in content}
    if kind == "tuple":
        return tuple(_unflatten(item, tensors) for item in content)
    return tensors[content] if kind == "tensor" else float(content)


def _manifest(step: int, files: Mapping[str, bytes]) -> bytes:
    hashes = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    return json.dumps({"format": FORMAT, "step": step, "files": hashes}, indent=2).encode()


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
        except _DamagedError as error:
            faults.append(str(error))
            continue
        if faults and warn:
            _LOG.warning("damaged checkpoint in %s: %s; using step %d", folder, "; ".join(faults), step)
        return step, state
    raise FewshotError(f"no intact checkpoint in {folder}: {'; '.join(faults) or 'it holds none'}; start a new run")


def _read(folder: Path, step: int) -> dict[str, Any]:
    """The state of one step; _DamagedError where the files are not what was written."""
    path = _present(folder).get(step, folder / str(step))
    try:
        manifest = json.loads(records.content(path / "manifest.json"))
        tensors, text = (_verified(path / name, manifest["files"][name]) for name in _STATE_FILES)
        stored = json.loads(text)
        if (manifest["step"], manifest["format"]) != (step, stored["format"]):
            raise _DamagedError("manifest.json belongs to another state")
        if stored["format"] != FORMAT:  # the hash is right, so no byte is damaged
            raise FewshotError(
                f"checkpoint {path} has format {stored['format']}, this version of fewshot reads {FORMAT}; "
                "use the version that wrote it"
            )
        return dict(_unflatten(stored["tree"], tensors_of(tensors)))
    except OSError as error:
        reason = f"{Path(error.filename or path).name}: {error.strerror}"
    except (_DamagedError, ValueError, LookupError, TypeError, RecursionError, SafetensorError) as error:
        reason = str(error) if isinstance(error, _DamagedError) else f"not readable, {type(error).__name__}"
    _refuse_pickle(path)
    raise _DamagedError(f"{step}: {reason}")


def _verified(path: Path, expected: Mapping[str, Any]) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != expected["bytes"]:
        raise _DamagedError(f"{path.name} has {status.st_size} bytes, expected {expected['bytes']}")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != expected["sha256"]:
        raise _DamagedError(f"{path.name} has sha256 {found[:12]}.., expected {expected['sha256'][:12]}..")
    return data


def _refuse_pickle(path: Path) -> None:
    """FewshotError where an unusable checkpoint is a pickle, which is not a damaged file to be skipped."""
    for file in (path, *path.glob("*")):
        head = b""
        with contextlib.suppress(OSError):
            if file.is_file():
                with file.open("rb") as opened:
                    head = opened.read(9)
        # torch.save writes a zip or a pickle, which starts with 0x80 and its protocol. So may a safetensors
        # file: eight bytes of its header's length, then a brace.
        pickled = head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5") and any(head[2:8])
        if (pickled and head[8:] != b"{") or head[:4] == b"PK\x03\x04":
            raise FewshotError(f"{file} is a pickle, which may run code: refused, not read; restore the state")


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
