"""`fewshot evaluate run=FOLDER`: a trained checkpoint under any protocol. Layer 6."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from fewshot.cli.compose import conf_dir, run_hydra
from fewshot.cli.job import choices, label, plain, sweep_folder
from fewshot.cli.words import from_home
from fewshot.errors import InputError
from fewshot.run_folder import RunFolder

if TYPE_CHECKING:
    from fewshot.plan import Plan


def main(argv: list[str]) -> int:
    offer_run(argv, needed=not {"--help", "-h", "--hydra-help"} & set(argv))
    return run_hydra("evaluate", argv, job)


def offer_run(words: Sequence[str], *, needed: bool = True) -> None:
    """Let Hydra find the configuration of the run that the words name, as the base of the evaluation's."""
    from hydra.core.config_store import ConfigStore

    said = {key: from_home(value.strip("'\"")) for key, sign, value in (word.partition("=") for word in words) if sign}
    if needed and "run" not in said:
        raise InputError("evaluate needs the folder of a training run: fewshot evaluate run=outputs/train/NAME/ID")
    chosen = [group for group in ("dataset", "augment", "algorithm") if group in said]
    trust = said.get("trust", "").lower() == "true"
    node = _run_config(Path(said["run"]), chosen, trust=trust) if "run" in said else {}
    ConfigStore.instance().store(name="run_config", node=node)


def _run_config(path: Path, chosen: Sequence[str], *, trust: bool) -> dict[str, Any]:
    """The run's configuration, with this machine's paths; without the groups that are chosen anew."""
    from omegaconf import OmegaConf

    if not (path / "config.yaml").exists():
        raise InputError(f"run={path} is not the folder of a training run: it has no config.yaml")
    run = RunFolder(path)
    config = {key: value for key, value in run.training_config.items() if key not in ("logger", "resume", *chosen)}
    if not trust:
        run.refuse_foreign_code(config, ("dataset", "augment", "backbone", "algorithm"))
    config = _as_text(config)
    here: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "config.yaml"))
    for key in ("data_dir", "cache_dir"):
        config[key] = here[key]
        if key in config.get("dataset", {}):
            config["dataset"][key] = f"${{{key}}}"
    return config


def _as_text(value: Any) -> Any:
    """Plain data in which OmegaConf finds nothing to fill in: what a run has stored is resolved."""
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def job(cfg: DictConfig) -> int:
    """One evaluation, with a folder and a result.json of its own."""
    from fewshot.cli import show
    from fewshot.plan import plan_evaluation

    config = plain(cfg)
    plan = plan_evaluation(config, choices(), folder=sweep_folder("evaluate", config), label=label())
    if plan.finished:
        print(f"finished before: {plan.folder}")
    else:
        show.finished_run(carry_out(plan))
    return 0


def carry_out(plan: "Plan") -> RunFolder:
    """An evaluation to its end."""
    from fewshot import experiment
    from fewshot.cli import show
    from fewshot.engine.machine import Machine

    plan.check_writable()
    return experiment.evaluate(plan, Machine.start(plan.config["device"], plan.config["threads"]), show.draw)
