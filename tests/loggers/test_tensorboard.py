"""TensorBoard: what was logged is what the event files hold."""

import importlib.util
import inspect
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fewshot.errors import InputError
from fewshot.loggers.base import RunInfo
from fewshot.loggers.tensorboard import TensorBoard

CONF = Path(__file__).parents[2] / "conf" / "logger" / "tensorboard.yaml"


def run_info(folder: Path, first_step: int = 0) -> RunInfo:
    return RunInfo(
        folder=folder,
        name="maml",
        id="run",
        steps=40,
        first_step=first_step,
        config={},
        group="",
        job_type="train",
    )


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_rows_and_result_are_read_back(tmp_path):
    logger = TensorBoard()
    logger.start(run_info(tmp_path))
    logger.log(10, {"train/loss": 0.5, "train/accuracy": 75.0})
    logger.progress(11)
    logger.log(20, {"train/loss": 0.25})
    logger.log(20, {"val/accuracy": 62.5, "val/accuracy_ci95": 0.5})
    logger.finish({"test": {"accuracy": 87.5, "accuracy_ci95": 0.25, "episodes": 1000}, "paper": None}, "finished")
    assert scalars(tmp_path) == {
        "train/loss": [(10, 0.5), (20, 0.25)],
        "train/accuracy": [(10, 75.0)],
        "val/accuracy": [(20, 62.5)],
        "val/accuracy_ci95": [(20, 0.5)],
        "test/accuracy": [(20, 87.5)],
        "test/accuracy_ci95": [(20, 0.25)],
        "test/episodes": [(20, 1000.0)],
    }


def test_a_resumed_run_replaces_the_steps_after_its_checkpoint(tmp_path):
    for first_step, steps in [(0, (10, 20, 30)), (20, (30, 40))]:
        logger = TensorBoard()
        logger.start(run_info(tmp_path, first_step))
        for step in steps:
            logger.log(step, {"train/loss": float(step + first_step)})
        logger.finish(None, "stopped")
    assert scalars(tmp_path) == {"train/loss": [(10, 10.0), (20, 20.0), (30, 50.0), (40, 60.0)]}


def test_a_failure_costs_one_warning(tmp_path, capsys, monkeypatch):
    logger = TensorBoard()
    logger.start(run_info(tmp_path))
    monkeypatch.setattr(logger._writer, "add_scalar", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    for step in (1, 2, 3):
        logger.log(step, {"train/loss": 0.5})
    logger.finish({"test": {"accuracy": 50.0}}, "finished")
    expected = "warning: TensorBoard stopped: disk full; metrics.jsonl is complete\n"
    assert capsys.readouterr().err == expected


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install tensorboard, or"):
        TensorBoard()


def test_yaml_keys_are_the_constructor_parameters():
    keys = OmegaConf.load(CONF)
    assert keys.pop("_target_") == "fewshot.loggers.tensorboard.TensorBoard"
    assert set(keys) == set(inspect.signature(TensorBoard).parameters)
    assert CONF.read_text().startswith("# @package logger.tensorboard\n")
