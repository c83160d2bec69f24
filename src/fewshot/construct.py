"""From a mapping with a `_target_` to an object: the only registry there is. Layer 1.

{"_target_": "a.b.C", "key": value} becomes a.b.C(key=value), nested mappings first; with `"_partial_": True` a function
that still takes the rest. The values are plain: dicts, lists, numbers, text, true, false and null.
"""

import functools
import importlib
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from fewshot.errors import FewshotError, InputError, first_line
from fewshot.printable import printable
from fewshot.schema import NAMES, is_a, kind_of

SCALARS = (int, float, str, bool, type(None))
TARGET, PARTIAL = "_target_", "_partial_"
# Classes of these do what their names say, whatever their arguments; functions and all other modules are code.
HARMLESS = ("fewshot.algorithms", "fewshot.backbones", "fewshot.datasets", "fewshot.episode",
            "fewshot.transforms", "torch.nn")  # fmt: skip


def construct(node: Any, where: str, **context: Any) -> Any:
    """The object that `node` describes; where: the place of `node` in the configuration, for errors.

    context: what the run knows (image_shape, ways, ...); the constructor gets those that it names as parameters.
    InputError where there is no `_target_`, it cannot be imported, its arguments do not fit, or a nested one fails.
    """
    if not isinstance(node, Mapping) or TARGET not in node:
        raise InputError(f"{where} has no `{TARGET}`, the import path of its class")
    target = located(str(node[TARGET]), where)
    parameters = _parameters(target)
    given = {key: _made(value, f"{where}.{key}") for key, value in node.items() if key not in (TARGET, PARTIAL)}
    if odd := [key for key in given if key.startswith("_")]:
        raise InputError(f"{where}.{odd[0]} is not known; beside the arguments there are {TARGET} and {PARTIAL}")
    given |= {key: value for key, value in context.items() if key in (parameters or ())}
    partial = node.get(PARTIAL, False)
    if parameters is not None:
        _check_arguments(parameters, given, where, partial=partial)
        if str(target.__module__).startswith("fewshot."):
            _check_types(parameters, given, where)
    return functools.partial(target, **given) if partial else target(**given)


def refuse_foreign(node: Any, where: str, source: str) -> None:
    """InputError where something in a configuration that others wrote (that of `source`) names code to be run.

    Followed are classes of fewshot and of torch.nn, at any depth; nothing else is even imported.
    """
    if isinstance(node, Mapping):
        if TARGET in node and not _harmless(str(node[TARGET])):
            raise InputError(
                f"{source} was not made here, and its {where}.{TARGET} names code that is neither fewshot's nor "
                f"torch.nn's: {printable(node[TARGET])}; set trust=true where you know that code and who sent the run"
            )
        for key, value in node.items():
            refuse_foreign(value, f"{where}.{key}", source)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            refuse_foreign(value, f"{where}.{index}", source)


def _harmless(path: str) -> bool:
    if not path.startswith(tuple(f"{name}." for name in HARMLESS)):
        return False
    try:
        found = located(path, "")
    except InputError:
        return False
    return isinstance(found, type) and f"{found.__module__}.".startswith(tuple(f"{name}." for name in HARMLESS))


def _check_arguments(
    parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any], where: str, *, partial: bool
) -> None:
    """InputError where a call with `given` would fail; an argument that is unknown comes before one that is missing."""
    signature = inspect.Signature(list(parameters.values()))
    try:
        signature.bind_partial(**given)
        if not partial:
            signature.bind(**given)
    except TypeError as error:
        raise InputError(f"{where}: {error}; its keys are: {', '.join(parameters)}") from error


def _check_types(parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any], where: str) -> None:
    """InputError for an argument of another type than its parameter's, where that is a number, text, true, false or
    null: a YAML file whose value is null does not tell the type."""
    for key, value in given.items():
        annotation = parameters[key].annotation if key in parameters else Any
        union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
        kinds = typing.get_args(annotation) if union else (annotation,)
        if set(kinds) <= set(SCALARS) and not any(is_a(value, kind) for kind in kinds):
            wanted = " or ".join(NAMES[kind] for kind in kinds)
            shown = "null" if value is None else value
            raise InputError(f"{where}.{key}={shown} is {kind_of(value)}, expected {wanted}")


def located(path: str, where: str) -> Any:
    """The class or function at an import path such as `torch.nn.ReLU`.

    Importing runs the code of the module: what a configuration names is trusted as much as the code beside it. One
    that came with a run folder goes through `refuse_foreign` first.
    """
    name, *rest = path.split(".")
    try:
        found: Any = importlib.import_module(name)
        for part in rest:
            name = f"{name}.{part}"
            try:
                found = getattr(found, part)
            except AttributeError:
                found = importlib.import_module(name)
    except Exception as error:
        raise InputError(
            f"{where}: cannot import '{path}' ({type(error).__name__}: {first_line(error)}); "
            "the working directory is importable"
        ) from error
    if not callable(found):
        raise InputError(f"{where}: '{path}' is a {type(found).__name__}, not a class or a function")
    return found


def _made(value: Any, where: str) -> Any:
    """A value of a mapping, every `_target_` in it constructed."""
    if isinstance(value, list):
        return [_made(item, f"{where}.{index}") for index, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    if TARGET not in value:
        return {key: _made(item, f"{where}.{key}") for key, item in value.items()}
    try:
        return construct(value, where)
    except FewshotError:
        raise
    except Exception as error:
        raise InputError(f"{where}: {first_line(error)}") from error


def _parameters(target: Any) -> Mapping[str, inspect.Parameter] | None:
    """Parameters by name; None for the few built-in callables that have no signature."""
    try:
        return inspect.signature(target).parameters
    except ValueError:
        return None
