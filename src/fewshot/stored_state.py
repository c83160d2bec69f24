"""The files of one checkpoint: a tree of tensors and plain values as bytes, and back, hashes verified. Layer 1.

`state.safetensors` has every tensor, `state.json` the tree around them, `manifest.json` size and sha256 of both.
Nothing is ever unpickled.
"""

import contextlib
import hashlib
import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from fewshot import records
from fewshot.errors import FewshotError

FORMAT = 1
_TENSORS, _TREE, _MANIFEST = "state.safetensors", "state.json", "manifest.json"


class DamagedState(FewshotError):
    """The files are not what was written."""


def packed(step: int, state: Mapping[str, Any]) -> dict[str, bytes]:
    """The files by name. state: nested dicts (str or int keys), lists and tuples of tensors (any device and layout,
    shared or not; they come back contiguous and on the CPU) and None, bool, int, float, str.

    TypeError, which says what, where the state holds anything else.
    """
    tensors: dict[str, Tensor] = {}
    tree = {"format": FORMAT, "tree": _flatten(state, "state", tensors)}
    files = {_TENSORS: bytes_of(tensors), _TREE: json.dumps(tree, allow_nan=False).encode()}
    return files | {_MANIFEST: manifest(step, files)}


def manifest(step: int, files: Mapping[str, bytes]) -> bytes:
    """What says of the other files how large they are, and their hashes."""
    hashes = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    return json.dumps({"format": FORMAT, "step": step, "files": hashes}, indent=2).encode()


def check(state: Mapping[str, Any]) -> None:
    """TypeError, as in `packed`."""
    json.dumps(_flatten(state, "state", {}), allow_nan=False)


def read(path: Path, step: int) -> dict[str, Any]:
    """The state of a step from its folder. DamagedState where the files are not what was written, FewshotError for a
    pickle in the place of a state, or another format."""
    try:
        listed = json.loads(records.content(path / _MANIFEST))
        tensors, text = (_verified(path / name, listed["files"][name]) for name in (_TENSORS, _TREE))
        stored = json.loads(text)
        if (listed["step"], listed["format"]) != (step, stored["format"]):
            raise DamagedState("manifest.json belongs to another state")
        if stored["format"] != FORMAT:  # the hash is right, so no byte is damaged
            raise FewshotError(
                f"checkpoint {path} has format {stored['format']}, this version of fewshot reads {FORMAT}; "
                "use the version that wrote it"
            )
        return dict(_unflatten(stored["tree"], tensors_of(tensors)))
    except OSError as error:
        reason = f"{Path(error.filename or path).name}: {error.strerror}"
    except (DamagedState, ValueError, LookupError, TypeError, RecursionError, SafetensorError) as error:
        reason = str(error) if isinstance(error, DamagedState) else f"not readable, {type(error).__name__}"
    _refuse_pickle(path)
    raise DamagedState(f"{step}: {reason}")


def _verified(path: Path, expected: Mapping[str, Any]) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != expected["bytes"]:
        raise DamagedState(f"{path.name} has {status.st_size} bytes, expected {expected['bytes']}")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != expected["sha256"]:
        raise DamagedState(f"{path.name} has sha256 {found[:12]}.., expected {expected['sha256'][:12]}..")
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
