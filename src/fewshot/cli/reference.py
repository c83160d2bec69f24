"""The reference: the configuration that the choices of groups alone give, before any value is overridden. Layer 6."""

import difflib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

# Keys whose value is a number or a draw, {low: 1, high: 9}: see `fewshot.sizes`.
SIZES = ("ways", "shots", "queries", "train_ways", "train_shots", "train_queries",
         "algorithm.stream.ways", "algorithm.stream.shots", "algorithm.stream.queries")  # fmt: skip
# By choices: the jobs of a sweep share few of them, and each takes 0.2 s.
_COMPOSED: WeakKeyDictionary[ConfigLoader, dict[tuple[str, ...], DictConfig]] = WeakKeyDictionary()


def references(config_name: str, overrides: list[str]) -> Iterator[DictConfig]:
    """The composed configuration with group choices only; for a sweep over groups, one for each combination."""
    loader = GlobalHydra.instance().config_loader()
    composed = _COMPOSED.setdefault(loader, {})
    groups = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line or ""]
        for o in OverridesParser.create(loader).parse_overrides(overrides)
        if is_group(o.key_or_group)
    ]
    for choice in itertools.product(*groups):
        if (config_name, *choice) not in composed:
            cfg = loader.load_configuration(config_name, list(choice), run_mode=RunMode.RUN)
            OmegaConf.set_struct(cfg, False)
            cfg.pop("hydra", None)
            composed[config_name, *choice] = cfg
        yield composed[config_name, *choice]


def is_group(key: str) -> bool:
    """Whether an override's key is that of a configuration group of ours, not a path of keys."""
    sources = GlobalHydra.instance().config_loader().repository.get_sources()  # type: ignore[attr-defined]
    return not key.startswith("hydra") and any(source.is_group(key) for source in sources)


def paths(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The paths of all keys in a configuration, groups of keys among them."""
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from paths(value, f"{prefix}{key}.")


def unknown_key(key: str, known: list[str]) -> str:
    """`trainer.stepz` -> nearest names, by the whole path first, then by its last word."""
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    leaf = key.rsplit(".", 1)[-1]
    near += [k for k in known if difflib.SequenceMatcher(None, k.rsplit(".", 1)[-1], leaf).ratio() > 0.75]
    names = f"near it: {', '.join(dict.fromkeys(near[:4]))}" if near else "`--cfg job` lists all keys"
    return f"'{key}' is not a key of the configuration; {names}"
