"""`fewshot evaluate run=FOLDER`: a trained checkpoint under any protocol. Layer 6."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from fewshot.cli.compose import conf_dir, run_hydra
from fewshot.cli.identity import choices, plain, sweep_folder
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

    runs = [word.split("=", 1)[1].strip("'\"") for word in words if word.startswith("run=")]
    if needed and not runs:
        raise InputError("evaluate needs the folder of a training run: fewshot evaluate run=outputs/train/NAME/ID")
    chosen = [group for group in ("dataset", "augment") if any(word.startswith(f"{group}=") for word in words)]
    ConfigStore.instance().store(name="run_config", node=_run_config(Path(runs[-1]), chosen) if runs else {})


def _run_config(path: Path, chosen: Sequence[str]) -> dict[str, Any]:
    """The run's configuration, with this machine's paths; without the groups that are chosen anew."""
    from omegaconf import OmegaConf

    if not (path / "config.yaml").is_file():
        raise InputError(f"run={path} is not the folder of a training run: it has no config.yaml")
    config = RunFolder(path).config
    here: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "config.yaml"))
    for key in ("data_dir", "cache_dir"):
        config[key] = here[key]
        if key in config["dataset"]:
            config["dataset"][key] = f"${{{key}}}"
    config.setdefault("allow_overlap", False)  # as before there was the key
    for key in ("logger", "resume", *chosen):
        del config[key]
    return config


def job(cfg: DictConfig) -> int:
    """One evaluation, with a folder and a result.json of its own."""
    from fewshot.cli import show
    from fewshot.plan import plan_evaluation

    config = plain(cfg)
    plan = plan_evaluation(config, choices(), folder=sweep_folder("evaluate", config))
    if plan.finished:
        print(f"finished before: {plan.folder}")
    else:
        show.finished_run(carry_out(plan))
    return 0


def carry_out(plan: "Plan") -> RunFolder:
    """An evaluation to its end."""
    from fewshot import experiment
    from fewshot.engine.machine import Machine

    plan.check_writable()
    return experiment.evaluate(plan, Machine.start(plan.config["device"], plan.config["threads"]))
