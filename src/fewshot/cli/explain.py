"""Errors of Hydra and OmegaConf, each in one line for the user: what, and the fix. Layer 6."""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from fewshot.cli.job import plain
from fewshot.cli.reference import SIZES, is_group, paths, references, unknown_key
from fewshot.errors import first_line
from fewshot.schema import NAMES

NOT_CHOSEN = "the configuration has no {0}; choose one: {0}=NAME (see fewshot train --help)"


def explain(error: Exception, config_name: str, overrides: list[str]) -> str | None:
    """One line for an error of Hydra's or OmegaConf's; None for anything else (a bug). Hydra must be initialised."""
    if isinstance(error, AssertionError | AttributeError):  # OmegaConf on a key below a null
        return _null_error(config_name, overrides)
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem or error.context}"
    if not isinstance(error, HydraException | OmegaConfBaseException | ValueError):
        return None
    text = first_line(error if str(error) else error.__cause__ or error)
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}': write KEY=VALUE, and quote what is no plain value: 'KEY=\"a [b] c\"'"
    if "Ambiguous value" in str(error):
        return f"{text.split(chr(39))[1]} names several values; add -m to run them all as a sweep"
    if removed := re.match(r"Error resolving interpolation '\$\{(\w+)\}'", text):  # ~dataset, which length follows
        return NOT_CHOSEN.format(removed[1])
    if "Config group override must be" in text:
        words = ", ".join(word for word in overrides if word.endswith("=null"))
        return f"{words}: a group is chosen by name; logger=[] stands for no logger"
    return _group_error(error) or _key_error(config_name, overrides) or _value_error(error)


def unresolved(error: OmegaConfBaseException, reference: Mapping[str, Any]) -> str:
    """What is wrong with a value that names other keys (`${shots}`), or that is still to be given (`???`)."""
    place, what = error.full_key or "the configuration", first_line(error)
    if match := re.search(r"Missing mandatory value: (\S+)", what):
        return f"{match[1]}=??? has no value; give it one"
    if "Recursive" in what:
        return f"{place}: its value names a key whose value leads back to it; give one of them a value of its own"
    if match := re.search(r"Interpolation key '([^']+)' not found", what):
        return f"{place}=${{{match[1]}}}: {unknown_key(match[1], list(paths(reference)))}"
    return f"{place}: {what.partition('resolving interpolation: ')[2] or what}"


def _key_error(config_name: str, overrides: list[str]) -> str | None:
    """The first override whose key the configuration does not have, in any job of a sweep over groups."""
    try:
        for reference in references(config_name, overrides):
            known = list(paths(plain(reference)))
            for word in overrides:
                key = word.lstrip("+~").split("=", 1)[0]
                if not re.match(r"hydra[./]|.*@", key) and not is_group(key) and key not in known:
                    if (size := key.rpartition(".")[0]) in SIZES:
                        return f"{word}: '{size}' is a number; write '{size}={{low: 1, high: 9}}'"
                    return unknown_key(key, known)
    except Exception:  # the group choices alone do not compose either
        return None
    return None


def _null_error(config_name: str, overrides: list[str]) -> str | None:
    """`paper.accuracy=3` or `paper={...}` while paper is null."""
    reference = next(references(config_name, overrides))
    for word in overrides:
        match = re.match(r"\+*(\w+)(\.|=\{)", word)  # a key below it, or a group of keys
        if match and (key := match[1]) in reference and reference[key] is None:
            return f"{word}: '{key}' is null and has no keys to set; give it in a YAML file, as conf/experiment does"
    return None


def _value_error(error: Exception) -> str:
    """A value that a key cannot have, as far as Hydra itself has found out."""
    cause = error.__cause__ or error
    what = first_line(cause)
    if match := re.fullmatch(r"Could not override '([^']+)'\. No match in the defaults list\.?", what):
        return f"{match[1]} cannot be chosen here; its keys can be set: {match[1]}.KEY=VALUE"
    place = getattr(cause, "full_key", None)
    if match := re.match(r"Key '([^']+)' not in", what):
        known = [f.name for f in dataclasses.fields(cause.object_type)]  # type: ignore[attr-defined]
        return unknown_key(str(place), [f"{str(place).rpartition('.')[0]}.{name}" for name in known])
    if match := re.match(r"Value '(.*)' of type '(\w+)' could not be converted to (\w+)", what):
        kinds = {"str": str, "int": int, "Integer": int, "float": float, "Float": float, "bool": bool, "Boolean": bool}
        have, wanted = (NAMES[kinds[word]] if word in kinds else word for word in match.group(2, 3))
        return f"{place}={match[1]} is {have}, expected {wanted}"
    return f"{place}: {what}" if place and place not in what else what


def _group_error(error: Exception) -> str | None:
    """A group's option that is not there."""
    match = re.search(r"Could not (?:find|load) '([^']+)/([^'/]*)'", str(error))
    if not match:
        return None
    options = _options(match[1])
    near = difflib.get_close_matches(match[2], options, n=2)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"there is no '{match[1]}/{match[2]}'; available: {', '.join(options) or 'none'}{hint}"


def _options(group: str) -> list[str]:
    """The names that can be chosen for a group, those of its folders as `folder/name`."""
    loader = GlobalHydra.instance().config_loader()
    below = loader.get_group_options(group, ObjectType.GROUP)
    own = [name for name in loader.get_group_options(group, ObjectType.CONFIG) if not name.endswith("_schema")]
    return own + [f"{name}/{option}" for name in below for option in _options(f"{group}/{name}")]
