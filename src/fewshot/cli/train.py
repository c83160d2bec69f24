"""`fewshot train`: a run from configuration to result.json. Layer 6."""

from typing import Any

from omegaconf import DictConfig

from fewshot.cli.compose import run_hydra
from fewshot.errors import FewshotError, InputError


def main(argv: list[str]) -> int:
    return run_hydra("config", argv, job)


def job(cfg: DictConfig) -> int:
    """One run. torch is imported only here, once the configuration is known to be valid."""
    from fewshot.cli.errors import is_out_of_memory
    from fewshot.engine import processes
    from fewshot.signals import Stopped, StopSignal

    with StopSignal(relayed=processes.size() > 1) as stop:
        while True:
            try:
                train(cfg, stop)
                return 0
            except Stopped:
                if not stop.pass_on():
                    raise
                # The cluster's launcher lets SIGTERM pass: what counts is its own signal, or the kill, after it.
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                from fewshot.cli.build import memory_advice

                what = str(error).split("\n")[0]
                raise FewshotError(f"out of memory ({what}); lower one of: {memory_advice(cfg)}") from error


def train(cfg: DictConfig, stop: Any) -> None:
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig

    from fewshot.cli import build, record, show
    from fewshot.evaluation import evaluate
    from fewshot.ops.random import key
    from fewshot.run_folder import RunFolder
    from fewshot.sampler import stream

    config = build.plain(cfg)
    root = Path(cfg.output_dir) / "train"
    name = build.run_name(config, HydraConfig.get().runtime.choices)
    path = record.sweep_folder("train", config)
    if path and (path / "result.json").exists():
        print(f"finished before: {path}")
        return
    build.check_writable(path.parent if path else root / name)
    machine = build.start_machine(config)
    processes = machine.processes
    images = build.load_images(cfg).on(machine.device)
    context = build.data_context(cfg, images)
    algorithm = build.make_algorithm(cfg, context, cfg.seed)
    if cfg.init:
        record.start_from(RunFolder(Path(cfg.init)), algorithm, config)
    algorithm.to(machine.device)
    machine = build.with_precision(machine, record.wanted_precision(config, path), algorithm)
    config["precision"] = machine.precision  # config.yaml and the identity state what computes, not `auto`
    if machine.dtype is not None and algorithm.double_backward:
        raise InputError(
            "precision=bf16 changes a second-order meta-gradient by about 30 %; "
            "use precision=fp32 or tf32, or algorithm.first_order=true"
        )
    trainer = build.make_trainer(cfg)
    batches = stream(
        algorithm.stream, images, cfg.train_split,
        seed=cfg.seed, within_groups=cfg.within_groups, device=machine.device,
        shift=cfg.train_shift, part=processes.rank, parts=processes.size,
    )  # fmt: skip
    val = build.episode_sampler(cfg, images, cfg.evaluation.val_split, machine.device) if trainer.val_every else None
    test_sampler = build.episode_sampler(cfg, images, cfg.evaluation.test_split, machine.device)

    def validate() -> dict[str, float]:
        assert val is not None
        return evaluate(
            algorithm, val, episodes=cfg.evaluation.val_episodes, tasks=cfg.evaluation.tasks,
            dtype=machine.dtype, processes=processes,
        ).summary()  # fmt: skip

    probe = val or build.episode_sampler(cfg, images, cfg.train_split, machine.device)
    evaluate(algorithm, probe, episodes=1, tasks=1, dtype=machine.dtype)  # what fails at the end, fails now
    nodes = (cfg.logger or {}).items() if processes.first else ()
    loggers = [build.construct(node, f"logger.{key}") for key, node in nodes]
    folder = (
        record.open_sweep_folder(cfg, config, path) if path
        else record.open_folder(cfg, config, root, name, processes)
    )  # fmt: skip
    record.start_loggers(loggers, config, folder, name, trainer.steps)
    status, result = "failed", None
    try:
        import torch

        torch.manual_seed(key(cfg.seed, "train"))
        progress = trainer.fit(
            algorithm, batches, validate, folder=folder, loggers=loggers, context=context,
            device=machine.device, dtype=machine.dtype, stop=stop, processes=processes,
        )  # fmt: skip
        result = record.test(cfg, config, folder, name, images, algorithm, test_sampler, progress, machine, stop)
        if processes.first:
            folder.write_result(result)
        status = "finished"
    except FewshotError as error:
        status = "stopped" if getattr(error, "signum", None) else "failed"
        raise
    finally:
        for logger in loggers:
            logger.finish(result, status)
        folder.close()
    if processes.first:
        show.result_table(result, folder.path)
        show.costs_table(folder.path / "profile")
        record.draw_figures(folder)
