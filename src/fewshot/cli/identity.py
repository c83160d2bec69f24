"""What makes two runs the same, and where a sweep lies. Layer 6; imports no torch: a launcher asks it, too."""

import contextlib
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fewshot.errors import InputError
from fewshot.identity import differing_keys as differing_keys
from fewshot.identity import digest, identity, outside
from fewshot.identity import flatten as flatten
from fewshot.run_folder import RunFolder

Config = dict[str, Any]
MAX_SLUG = 60  # letters of a sweep's readable name


def plain(cfg: DictConfig) -> Config:
    """Resolved, as nested dicts and lists."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    return config  # type: ignore[return-value]


def job_identity(verb: str, config: Mapping[str, Any]) -> str:
    """The identity of a job of `train` or `evaluate`; an evaluation is one of certain weights, wherever they lie."""
    if verb != "evaluate":
        return identity(config)
    run = RunFolder(Path(config["run"]))
    which = checkpoint_choice(config, run)
    pointer, step = run.checkpoints / which, which
    with contextlib.suppress(OSError):
        step = pointer.read_text().strip()  # last or best; a step's own name is that of a folder
    try:
        weights = hashlib.sha256((run.checkpoints / step / "manifest.json").read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"run={run.path} has no checkpoint '{which}'; choose another with checkpoint=") from error
    return identity({**config, "run": None, "checkpoint": weights})


def checkpoint_choice(config: Mapping[str, Any], run: RunFolder) -> str:
    """last, best or a step: what an evaluation asks for, else what the run itself was tested with."""
    if config["checkpoint"] is not None:
        return str(config["checkpoint"])
    return str(run.result()["protocol"]["checkpoint_rule"]) if run.finished else "last"


def sweep_name(verb: str, overrides: Sequence[str]) -> str:
    """`algorithm=maml,protonet shots=1,5` -> `algorithm-maml-protonet_shots-1-5_3f2a1b`: the same for the same jobs.

    The readable part is of what varies, the hash of all that counts for an identity. Only letters that need no
    quotes, neither a shell's nor Hydra's.
    """
    ours = sorted(word for word in overrides if not outside(word.lstrip("+~").split("=", 1)[0]))
    varied = [word.split("=", 1) for word in ours if re.search(r"=.*[,(]|^hydra/", word)]
    parts = [f"{re.split('[./]', key)[-1]}-{re.sub(r'[^A-Za-z0-9.]+', '-', value).strip('-')}" for key, value in varied]
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(parts))[:MAX_SLUG].strip("-_.")
    return "_".join(filter(None, [slug, digest([verb, *ours])[:6]]))
