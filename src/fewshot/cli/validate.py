"""What Hydra lets through: unknown keys behind `+`, wrong types in groups, impossible relations. Layer 6.

The reference is the same configuration with the same group choices but no values overridden: a key must be
in it, and a value must be of the type it has there (null: any type).
"""

import dataclasses
import difflib
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from fewshot.cli.values import check
from fewshot.errors import InputError
from fewshot.sizes import sizes

LEAST = {
    "evaluation.episodes": 2, "evaluation.val_episodes": 2, "evaluation.tasks": 1, "evaluation.ensemble": 1,
    "threads": 1, "trainer.keep_best": 1,
    "trainer.steps": 0, "trainer.val_every": 0, "trainer.log_every": 1, "trainer.checkpoint_every": 1,
}  # fmt: skip
SIZES = ("ways", "shots", "queries", "train_ways", "train_shots", "train_queries",
         "algorithm.stream.ways", "algorithm.stream.shots", "algorithm.stream.queries")  # fmt: skip
NEEDED = ("dataset", "backbone", "algorithm", "trainer")
# References by their choices: the jobs of a sweep share few of them, and each takes 0.2 s.
_COMPOSED: WeakKeyDictionary[ConfigLoader, dict[tuple[str, ...], DictConfig]] = WeakKeyDictionary()
CHOICES = {
    "precision": ("auto", "fp32", "tf32", "bf16"), "trainer.test_checkpoint": ("best", "last"),
    "init_part": ("backbone",),
}  # fmt: skip

NOT_CHOSEN = "the configuration has no {0}; choose one: {0}=NAME (see fewshot train --help)"


def validate(cfg: DictConfig, config_name: str, overrides: list[str] | None = None) -> None:
    """Raise InputError for the first key or value that cannot be meant."""
    if overrides is None:
        from hydra.core.hydra_config import HydraConfig

        task = HydraConfig.get().overrides.task  # as they were typed: some name other keys
        overrides = [str(word) for word in OmegaConf.to_container(task, resolve=False)]  # type: ignore[union-attr]
    for word in overrides:
        if word.startswith(tuple(f"{group}=[" for group in NEEDED)):
            raise InputError(f"{word}: choose one; -m {word.replace('[', '').replace(']', '')} runs each")
    for group in NEEDED:
        if not (node := cfg.get(group)) or OmegaConf.is_missing(node, "_target_") or "_target_" not in node:
            raise InputError(NOT_CHOSEN.format(group))
    reference = _plain(next(_references(config_name, overrides)))
    try:
        values = _plain(cfg)
    except OmegaConfBaseException as error:
        raise InputError(_unresolved(error, reference)) from error
    _compare(values, reference, "", list(_paths(reference)))
    for path, least in LEAST.items():
        value = OmegaConf.select(cfg, path)
        if value is not None and value < least:
            raise InputError(f"{path}={value} is below {least}")
    for path, among in CHOICES.items():
        value = OmegaConf.select(cfg, path)
        if value is not None and value not in among:
            raise InputError(f"{path}={value} is unknown; choose {', '.join(among)}")
    for prefix in ("", "train_"):
        sizes(*[values[f"{prefix}{key}"] for key in ("ways", "shots", "queries")], prefix=prefix)
    _compare_signs(values, reference, "", ours=True)
    check(values)
    if values.get("init_part") and not values.get("init"):
        raise InputError(f"init_part={values['init_part']} without init; name the run that it is a part of: init=RUN")


def explain(error: Exception, config_name: str, overrides: list[str]) -> str | None:
    """One line for an error of Hydra's or OmegaConf's; None for anything else (a bug). Hydra must be initialised."""
    if isinstance(error, AssertionError | AttributeError):  # OmegaConf on a key below a null
        return _null_error(config_name, overrides)
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem or error.context}"
    if not isinstance(error, HydraException | OmegaConfBaseException | ValueError):
        return None
    text = " ".join((str(error) or str(error.__cause__)).split("\n")[0].split())
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


def _key_error(config_name: str, overrides: list[str]) -> str | None:
    """The first override whose key the configuration does not have, in any job of a sweep over groups."""
    try:
        for reference in _references(config_name, overrides):
            known = list(_paths(_plain(reference)))
            for word in overrides:
                key = word.lstrip("+~").split("=", 1)[0]
                if not re.match(r"hydra[./]|.*@", key) and not _is_group(key) and key not in known:
                    if (size := key.rpartition(".")[0]) in SIZES:
                        return f"{word}: '{size}' is a number; write '{size}={{low: 1, high: 9}}'"
                    return unknown_key(key, known)
    except Exception:  # the group choices alone do not compose either
        return None
    return None


def _null_error(config_name: str, overrides: list[str]) -> str | None:
    """`paper.accuracy=3` or `paper={...}` while paper is null."""
    reference = next(_references(config_name, overrides))
    for word in overrides:
        match = re.match(r"\+*(\w+)(\.|=\{)", word)  # a key below it, or a group of keys
        if match and (key := match[1]) in reference and reference[key] is None:
            return f"{word}: '{key}' is null and has no keys to set; give it in a YAML file, as conf/experiment does"
    return None


def _value_error(error: Exception) -> str:
    cause = error.__cause__ or error
    what = " ".join(str(cause).split("\n")[0].split())
    if match := re.fullmatch(r"Could not override '([^']+)'\. No match in the defaults list\.?", what):
        return f"{match[1]} cannot be chosen here; its keys can be set: {match[1]}.KEY=VALUE"
    place = getattr(cause, "full_key", None)
    if match := re.match(r"Key '([^']+)' not in", what):
        known = [f.name for f in dataclasses.fields(cause.object_type)]  # type: ignore[attr-defined]
        return unknown_key(str(place), [f"{str(place).rpartition('.')[0]}.{name}" for name in known])
    if match := re.match(r"Value '(.*)' of type '(\w+)' could not be converted to (\w+)", what):
        kinds = {"str": str, "int": int, "Integer": int, "float": float, "Float": float, "bool": bool, "Boolean": bool}
        have, wanted = (_name(kinds[word]()) if word in kinds else word for word in match.group(2, 3))
        return f"{place}={match[1]} is {have}, expected {wanted}"
    return f"{place}: {what}" if place and place not in what else what


def _unresolved(error: OmegaConfBaseException, reference: Mapping[str, Any]) -> str:
    """What is wrong with a value that names other keys (`${shots}`), or that is still to be given (`???`)."""
    place, what = error.full_key or "the configuration", " ".join(str(error).split("\n")[0].split())
    if match := re.search(r"Missing mandatory value: (\S+)", what):
        return f"{match[1]}=??? has no value; give it one"
    if "Recursive" in what:
        return f"{place}: its value names a key whose value leads back to it; give one of them a value of its own"
    if match := re.search(r"Interpolation key '([^']+)' not found", what):
        return f"{place}=${{{match[1]}}}: {unknown_key(match[1], list(_paths(reference)))}"
    return f"{place}: {what.partition('resolving interpolation: ')[2] or what}"


def unknown_key(key: str, known: list[str]) -> str:
    """`trainer.stepz` -> nearest names, by the whole path first, then by its last word."""
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    leaf = key.rsplit(".", 1)[-1]
    near += [k for k in known if difflib.SequenceMatcher(None, k.rsplit(".", 1)[-1], leaf).ratio() > 0.75]
    names = f"near it: {', '.join(dict.fromkeys(near[:4]))}" if near else "`--cfg job` lists all keys"
    return f"'{key}' is not a key of the configuration; {names}"


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


def _references(config_name: str, overrides: list[str]) -> Iterator[DictConfig]:
    """The composed configuration with group choices only; for a sweep over groups, one for each combination."""
    loader = GlobalHydra.instance().config_loader()
    composed = _COMPOSED.setdefault(loader, {})
    groups = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line or ""]
        for o in OverridesParser.create(loader).parse_overrides(overrides)
        if _is_group(o.key_or_group)
    ]
    for choice in itertools.product(*groups):
        if (config_name, *choice) not in composed:
            cfg = loader.load_configuration(config_name, list(choice), run_mode=RunMode.RUN)
            OmegaConf.set_struct(cfg, False)
            cfg.pop("hydra", None)
            composed[config_name, *choice] = cfg
        yield composed[config_name, *choice]


def _is_group(key: str) -> bool:
    """Whether an override's key is that of a configuration group of ours, not a path of keys."""
    sources = GlobalHydra.instance().config_loader().repository.get_sources()  # type: ignore[attr-defined]
    return not key.startswith("hydra") and any(source.is_group(key) for source in sources)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    plain.pop("hydra", None)
    return plain  # type: ignore[return-value]


def _paths(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")


def _compare(values: Mapping[str, Any], reference: Mapping[str, Any], prefix: str, known: list[str]) -> None:
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key not in reference:
            raise InputError(unknown_key(path, known))
        default = reference[key]
        if path == "normalize" or (value is None and path == "paper"):  # a text or a group; left out of a preset
            continue
        if path in SIZES and (isinstance(value, Mapping) or isinstance(default, Mapping)):  # a number or a draw
            continue
        if isinstance(default, Mapping) and isinstance(value, Mapping):
            _compare(value, default, f"{path}.", known)
        elif isinstance(default, Mapping) and isinstance(value, str) and _is_group(group := path.replace(".", "/")):
            raise InputError(f"{path}={value}: '{path}' is a group, whose options are chosen by {group}={value}")
        elif not _same_type(value, default):
            like = "" if isinstance(default, Mapping) else f" like the default {path}={default}"
            shown = "null" if value is None else value
            raise InputError(f"{path}={shown} is {_name(value)}, expected {_name(default)}{like}")
        elif odd := _other_items(value, default):
            raise InputError(f"{path}={value} has {_name(odd[0])} in it, expected what is in the default {default}")


def _compare_signs(value: Any, default: Any, path: str, *, ours: bool) -> None:
    """InputError for a number below 0 whose default is not: no key of ours has such values. A class of the user's own,
    which `ours` does not cover, may."""
    if isinstance(value, Mapping) and isinstance(default, Mapping):
        ours = str(value.get("_target_", "fewshot." if ours else "")).startswith(("fewshot.", "torch."))
        for key in value:
            _compare_signs(value[key], default.get(key), f"{path}.{key}".lstrip("."), ours=ours)
    elif ours and _least(value) < 0 <= _least(default) < math.inf:
        raise InputError(f"{path}={value} is below 0; its default is {default}")


def _least(value: Any) -> float:
    """The smallest number in a value; infinity where there is none."""
    if isinstance(value, list):
        return min(map(_least, value), default=math.inf)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else math.inf


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(default, Mapping) or default is None or value is None:
        return default is None or (value is None and not isinstance(default, Mapping))
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


def _other_items(value: Any, default: Any) -> list[Any]:
    """The items of a list that are no numbers, or no whole ones, as all of the default's are."""
    numbers = isinstance(default, list) and all(isinstance(d, int | float) and not isinstance(d, bool) for d in default)
    if not numbers or not default or not isinstance(value, list):
        return []
    like = 0.0 if any(isinstance(d, float) for d in default) else 0
    return [item for item in value if not _same_type(item, like) or item is None]


def _name(value: Any) -> str:
    names = {
        type(None): "nothing",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        list: "a list",
    }
    return names.get(type(value), "a group of keys")
