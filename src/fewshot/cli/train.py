"""`fewshot train`: a run from configuration to result.json. Layer 6."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from fewshot.cli.compose import run_hydra
from fewshot.cli.job import choices, label, plain, sweep_folder
from fewshot.cli.recipe import departures
from fewshot.cli.stages import check_init, with_init
from fewshot.errors import FewshotError, first_line

if TYPE_CHECKING:
    from fewshot.plan import Plan
    from fewshot.run_folder import RunFolder
    from fewshot.signals import StopSignal


def main(argv: list[str]) -> int:
    return run_hydra("config", argv, job)


def job(cfg: DictConfig) -> int:
    """One run. torch is imported only here, once the configuration is known to be valid."""
    from fewshot.cli import show
    from fewshot.cli.errors import is_out_of_memory
    from fewshot.engine import processes
    from fewshot.plan import plan_training
    from fewshot.signals import Stopped, StopSignal

    config = plain(cfg)
    check_init(config)
    folder = sweep_folder("train", config)
    changed = departures(config, choices())
    plan = plan_training(config, choices(), folder=folder, sweep=folder is not None, departures=changed,
                         label=label())  # fmt: skip
    if plan.finished:
        print(f"finished before: {plan.folder}")
        return 0
    with StopSignal(relayed=processes.size() > 1, at_once=True) as stop:
        while True:
            try:
                done = carry_out(plan, stop)
                break
            except Stopped:
                if not stop.pass_on():
                    raise
                # The cluster's launcher lets SIGTERM pass: what counts is its own signal, or the kill, after it.
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise FewshotError(
                    f"out of memory ({first_line(error)}); lower one of: {memory_advice(config)}"
                ) from error
    if done is not None:
        show.finished_run(done)
    return 0


def carry_out(plan: "Plan", stop: "StopSignal") -> "RunFolder | None":
    """A run to its end; None in all processes of a run but the first."""
    from fewshot import experiment
    from fewshot.cli import show
    from fewshot.engine.machine import Machine

    plan.check_writable()
    machine = Machine.start(plan.config["device"], plan.config["threads"])
    folder = experiment.train(with_init(plan, machine, stop), machine, stop, show.draw)
    return folder if machine.processes.first else None


def memory_advice(config: Mapping[str, Any]) -> str:
    """The settings that lower memory most, with their present values."""
    algorithm = config["algorithm"]
    stream = algorithm.get("stream", {})
    key = "tasks" if "tasks" in stream else "batch_size"
    settings = [f"algorithm.stream.{key}={stream.get(key)}"]
    if "task_chunk" in algorithm:
        settings.append(f"algorithm.task_chunk={algorithm['task_chunk']}")
    settings += [f"evaluation.tasks={config['evaluation']['tasks']}", f"train_queries={config['train_queries']}"]
    advice = ", ".join(settings[:3])
    second_order = not algorithm.get("first_order", False)
    recomputes = algorithm.get("checkpoint_inner", True)
    return advice if recomputes or not second_order else f"{advice}; or set algorithm.checkpoint_inner=true"
