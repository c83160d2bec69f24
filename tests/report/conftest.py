"""Run folders written by hand, so that every number of a report is known."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from fewshot.held_run import HeldRun
from fewshot.identity import identity
from fewshot.metrics import mean_ci95
from fewshot.report.runs import RunRecord
from fewshot.shown import ShownEpisode, save

EPISODES = 40


def make_shown(ways: int = 3, channels: int = 1, width: int = 6) -> ShownEpisode:
    """An episode of which the first query of the first class was taken for the second, and all others were right."""
    draw = np.random.default_rng(0)
    predicted = np.arange(ways).repeat(2)
    predicted[0] = 1
    return ShownEpisode(
        episode=7, accuracy=100 * (1 - 1 / (2 * ways)), names=np.array([f"script/{n}" for n in range(ways)]),
        support_x=draw.integers(0, 256, (ways, channels, 8, 8)).astype(np.uint8),
        query_x=draw.integers(0, 256, (2 * ways, channels, 8, 8)).astype(np.uint8), predicted=predicted,
        support_z=draw.normal(size=(ways, width)).astype(np.float32),
        query_z=draw.normal(size=(2 * ways, width)).astype(np.float32),
        means=draw.normal(size=(ways, width)).astype(np.float32),
    )  # fmt: skip


@pytest.fixture
def hand_made() -> Callable[..., ShownEpisode]:
    """hand_made(ways=3, channels=1, width=6) -> a kept episode."""
    return make_shown


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunRecord]:
    """make_run(algorithm="maml", ways=5, shots=1, seed=0, ...) -> a finished run below tmp_path/outputs."""

    def make(
        *, algorithm: str = "maml", ways: int = 5, shots: int = 1, seed: int = 0, finished: bool = True,
        keys: Mapping[str, Any] | None = None, paper: Mapping[str, Any] | None = None,
        protocol: Mapping[str, Any] | None = None, episodes_from: int = 0, where: str = "train",
        filters: int | None = None, backbone: Mapping[str, Any] | None = None,
        lift: float = 0.0, kept: ShownEpisode | None = None,
    ) -> RunRecord:  # fmt: skip
        wanted = paper and {key: value for key, value in paper.items() if key != "verdict"}
        config = {
            "ways": ways, "shots": shots, "seed": seed, "output_dir": "outputs", "name": None, "paper": wanted,
            "algorithm": {"_target_": f"x.{algorithm}", "inner_steps": 1, **(keys or {})}, "trainer": {"steps": 20},
            "backbone": {"_target_": "x.Net", "filters": filters} if filters else {"_target_": "x.Net"},
            "dataset": {"size": 28},
        }  # fmt: skip
        name = f"{algorithm}_toys_{ways}w{shots}s"
        folder = HeldRun.create(tmp_path / "outputs" / where / name, yaml.safe_dump(config), identity(config))
        draw = np.random.default_rng([ways, shots, seed, len(algorithm)])
        for step in (10, 20):
            row = {"step": step, "train/loss": 2.0 / step + seed, "train/accuracy": 50.0 + step}
            folder.metrics.append(row | {"val/accuracy": 50.0 + step + seed, "val/accuracy_ci95": 1.0, "val/loss": 1.0})
        classes = np.random.default_rng([ways, episodes_from]).integers(0, 99, (EPISODES, ways))
        steps = 20 + draw.integers(0, 9, (EPISODES, 3)).cumsum(1) * 2.5 + 5.0 * shots + lift
        np.savez_compressed(folder.episodes / "test.npz", classes=classes, accuracy=steps[:, -1], step_accuracy=steps)
        save(folder.episodes / "shown.npz", [kept or make_shown(ways)])
        mean = mean_ci95(torch.from_numpy(steps[:, -1]))
        result = {
            "schema": 1, "name": name, "algorithm": algorithm, "dataset": "toys", "split": "test", "ways": ways,
            "shots": shots, "queries": 2, "seed": seed, "steps": 20, "train": {"ways": ways},
            "baselines": {"raw_pixels": {"accuracy": 31.25, "accuracy_ci95": 0.5},
                          "untrained": {"accuracy": 22.75 + seed, "accuracy_ci95": 0.5}},
            "test": {"accuracy": mean.value, "accuracy_ci95": mean.ci95, "episodes": EPISODES, "loss": 0.5},
            "val": None, "paper": paper,
            "protocol": {"norm_statistics": "batch", "split_hash": "abc", "eval_seed": 0, "within_groups": False}
            | (protocol or {}),
            "timing": {"train_seconds": 10.0 + seed, "seconds_per_step": 0.5, "data_seconds_per_step": 0.005,
                       "test_episodes_per_second": 80.0, "peak_memory_mb": 1234.0},
            "environment": {"fewshot": "0", "device": "cpu (x)", "threads": 1}, "identity": identity(config),
        }  # fmt: skip
        if finished:
            folder.write_result(result | ({"backbone": backbone} if backbone else {}))
        folder.close()
        return RunRecord(folder.path)

    return make
