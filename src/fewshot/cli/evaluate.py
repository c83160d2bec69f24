"""`fewshot evaluate run=FOLDER`: a trained checkpoint under any protocol. Layer 6."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fewshot.cli.compose import conf_dir, run_hydra
from fewshot.cli.identity import checkpoint_choice, job_identity
from fewshot.errors import InputError
from fewshot.run_folder import RunFolder


def main(argv: list[str]) -> int:
    from hydra.core.config_store import ConfigStore

    runs = [word.split("=", 1)[1].strip("'\"") for word in argv if word.startswith("run=")]
    if not runs and not {"--help", "-h", "--hydra-help"} & set(argv):
        raise InputError("evaluate needs the folder of a training run: fewshot evaluate run=outputs/train/NAME/ID")
    other_data = any(word.startswith("dataset=") for word in argv)
    base = _run_config(Path(runs[-1]), other_data) if runs else {}
    ConfigStore.instance().store(name="run_config", node=base)
    return run_hydra("evaluate", argv, job)


def _run_config(path: Path, other_data: bool) -> dict[str, Any]:
    """The run's configuration, with this machine's paths; without its data set where another is asked for."""
    from omegaconf import OmegaConf

    file = path / "config.yaml"
    if not file.is_file():
        raise InputError(f"run={path} is not the folder of a training run: it has no config.yaml")
    config: Any = OmegaConf.to_container(OmegaConf.load(file))
    here: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "config.yaml"))
    for key in ("data_dir", "cache_dir"):
        config[key] = here[key]
        if key in config["dataset"]:
            config["dataset"][key] = f"${{{key}}}"
    for key in ("logger", "resume", *(["dataset"] if other_data else [])):
        del config[key]
    return config


def job(cfg: DictConfig) -> int:
    """One evaluation, with a folder and a result.json of its own."""
    from omegaconf import OmegaConf

    from fewshot import checkpoint, result
    from fewshot.cli import build, record, show
    from fewshot.evaluation import evaluate, raw_pixels

    run = RunFolder(Path(cfg.run))
    config = build.plain(cfg)
    trained = build.plain(OmegaConf.load(run.path / "config.yaml"))  # type: ignore[arg-type]
    names = {key: run.result()[key] for key in ("name", "algorithm")} if run.finished else {}
    name = str(names.get("name", run.path.resolve().parent.name))
    root = Path(cfg.output_dir) / "evaluate"
    which = _which(config, run)
    path = record.sweep_folder("evaluate", config)
    if path and (path / "result.json").exists():
        print(f"finished before: {path}")
        return 0
    build.check_writable(path.parent if path else root / name)
    machine = build.start_machine(config)
    images = build.load_images(cfg).on(machine.device)
    step, state = checkpoint.load(run.checkpoints, which)
    algorithm = build.make_algorithm(cfg, state["context"], cfg.seed).to(machine.device)
    checkpoint.load_into(algorithm, state["model"])
    machine = build.with_precision(machine, config["precision"], algorithm)
    config["precision"] = machine.precision
    _same_shape(images.image_shape, state["context"]["image_shape"], images.name)
    split = cfg.split or cfg.evaluation.test_split
    sampler = build.episode_sampler(cfg, images, split, machine.device)
    options: dict[str, Any] = {"episodes": cfg.evaluation.episodes, "tasks": cfg.evaluation.tasks}
    done = evaluate(algorithm, sampler, **options, dtype=machine.dtype, every_step=True)
    text, ident = OmegaConf.to_yaml(OmegaConf.create(config)), job_identity("evaluate", config)
    folder = RunFolder.claim(path, text, ident) if path else RunFolder.create(root, name, text, ident)
    record.save_episodes(folder, done)
    record.save_shown(folder, done, algorithm, sampler, images, machine)
    published = config["paper"] if config["paper"] != trained["paper"] else None  # the run's own is of its own test
    asked = record.head(cfg, name, split, step) | names
    outcome = asked | {
        "train": {key: trained[f"train_{key}"] for key in ("ways", "shots", "queries")},
        "baselines": {"raw_pixels": record.named_mean(raw_pixels(sampler, **options))},
        "test": done.summary(),
        "val": None,
        "paper": result.verdict(published, done.mean.value, done.mean.ci95),
        "protocol": result.protocol(images, algorithm, record.protocol_facts(cfg, str(which), sampler)),
        "timing": {"test_episodes_per_second": len(done.accuracy) / done.seconds},
        "environment": result.environment(machine.device, machine.precision),
        "run": str(run.path),
    }
    folder.write_result(outcome)
    folder.close()
    show.result_table(outcome, folder.path)
    record.draw_figures(folder)
    return 0


def _which(config: Mapping[str, Any], run: RunFolder) -> str | int:
    from fewshot import checkpoint

    text, have = checkpoint_choice(config, run), checkpoint.steps(run.checkpoints)
    if text not in ("best", "last", *map(str, have)):
        raise InputError(f"checkpoint={text} is not in {run.path}; choose best, last or one of {have}")
    return int(text) if text.isdigit() else text


def _same_shape(have: Sequence[int], trained: Sequence[int], name: str) -> None:
    if list(have) != list(trained):
        raise InputError(
            f"the run was trained on images of {'x'.join(map(str, trained))}, those of '{name}' are "
            f"{'x'.join(map(str, have))}; set dataset.size={trained[-1]}"
        )
