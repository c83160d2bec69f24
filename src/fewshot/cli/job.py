"""What only Hydra knows of a job: its configuration, the chosen groups, the folder of a sweep. Layer 6; no torch."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fewshot.cli.schema import RunSchema
from fewshot.cli.values import PATHS
from fewshot.cli.words import from_home
from fewshot.errors import InputError, first_line
from fewshot.identity import digest, evaluation_identity, outside

NAMED = ("algorithm", "dataset", "ways", "shots", "name", "seed", "run")  # in a run's name, or told apart from it
MAX_SLUG = 60  # characters of a sweep's readable name


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Resolved, as nested dicts and lists; a `~` that begins a path is the user's folder."""
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    for path in PATHS:
        *above, last = path.split(".")
        node = config
        for key in above:
            node = node.get(key) or {}
        if isinstance(node.get(last), str):
            node[last] = from_home(node[last])
    if config.get("paper") is not None:
        config["paper"] = _whole_paper(config["paper"])
    return dict(config)


def _whole_paper(value: Any) -> Any:
    """A published value, checked and with its default tolerance: an evaluation's keys have no types of their own."""
    try:
        typed: Any = OmegaConf.merge(OmegaConf.structured(RunSchema), {"paper": value})
        return OmegaConf.to_container(typed.paper, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(
            f"paper={value}: {first_line(error)}; give accuracy and source, and if known ci95 and tolerance, in points"
        ) from None


def choices() -> dict[str, str | None]:
    """Group -> the name of the YAML file that was chosen for the job that runs now."""
    from hydra.core.hydra_config import HydraConfig

    return dict(HydraConfig.get().runtime.choices)


def label() -> str:
    """What was typed for the job that runs now and its name does not tell: what tells it from others in a list."""
    from hydra.core.hydra_config import HydraConfig

    typed = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    words = [str(word).split("=", 1) for word in typed or ()]
    return " ".join("=".join(word) for word in words if word[0] not in NAMED and not outside(word[0].lstrip("+~")))


def sweep_folder(verb: str, config: Mapping[str, Any]) -> Path | None:
    """In a sweep, under whatever launcher: <hydra.sweep.dir>/<identity>, where the same command finds it again."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    return folder_of_sweep(hydra) / job_identity(verb, config) if hydra.mode == RunMode.MULTIRUN else None


def folder_of_sweep(hydra: Any) -> Path:
    """Where the jobs of a sweep have their folders, by the `hydra` part of its configuration."""
    return Path(from_home(str(hydra.sweep.dir)))


def job_identity(verb: str, config: Mapping[str, Any]) -> str:
    """The identity of a job of `train` or `evaluate`, as it was asked for."""
    from fewshot.cli.stages import identity_as_asked  # late: it imports this file

    return evaluation_identity(config) if verb == "evaluate" else identity_as_asked(config)


def sweep_name(verb: str, overrides: Sequence[str]) -> str:
    """`algorithm=maml,protonet shots=1,5` -> `algorithm-maml-protonet_shots-1-5_3f2a1b`: the same for the same jobs.

    The readable part is made of what varies, the hash of everything that counts for an identity. It has only characters
    that need no quotes, neither in a shell nor for Hydra.
    """
    ours = sorted(word for word in overrides if not outside(word.lstrip("+~").split("=", 1)[0]))
    varied = [word.split("=", 1) for word in ours if re.search(r"=.*[,(]|^hydra/", word)]
    parts = [f"{re.split('[./]', key)[-1]}-{re.sub(r'[^A-Za-z0-9.]+', '-', value).strip('-')}" for key, value in varied]
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(parts))[:MAX_SLUG].strip("-_.")
    return "_".join(filter(None, [slug, digest([verb, *ours])[:6]]))
