"""Runs that start from other runs: by folder, by preset, in part; and what is refused."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from command_line import QUIET, episodes, only, refusal, result, succeed

from fewshot import checkpoint
from fewshot.cli import stages
from fewshot.cli.compose import compose
from fewshot.held_run import HeldRun
from fewshot.run_folder import RunFolder

PRESET = """# @package _global_
defaults:
  - override /algorithm: protonet
  - override /backbone: conv4
  - _self_
train_shots: 2
trainer:
  steps: 2
  val_every: 0
  checkpoint_every: 2
evaluation:
  episodes: 4
backbone:
  blocks: 2
  filters: 8
algorithm:
  stream:
    tasks: 2
"""
START = ("--config-dir", "mine", "init=experiment:stage/one")
WORDS = (*QUIET, "algorithm=protonet", "backbone=conv4", "trainer.steps=1")


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A folder with a preset of the user's own."""
    (tmp_path / "mine" / "experiment" / "stage").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "stage" / "one.yaml").write_text(PRESET)
    return tmp_path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(run / "checkpoints", RunFolder(run).tested_with)[1]["model"]


def runs(here: Path) -> dict[str, Path]:
    """Name -> folder of the runs below outputs/train."""
    return {path.parent.name: path for path in here.glob("outputs/train/*/*")}


def test_a_preset_is_trained_once_and_found_again(preset: Path, caplog: pytest.LogCaptureFixture) -> None:
    succeed("train", *START, *WORDS, "name=second", cwd=preset)
    assert "init=experiment:stage/one is trained first, in outputs/train/protonet_glyphs_5w1s/" in caplog.text
    first, second = runs(preset)["protonet_glyphs_5w1s"], runs(preset)["second"]
    assert result(first)["train"]["shots"] == 2
    start = {"path": str(first.relative_to(preset)), "weights": RunFolder(first).weights("last"), "part": None}
    assert result(second)["train"]["init"] == start
    assert RunFolder(second).config["init_weights"] == start["weights"]

    stamp = (first / "result.json").stat().st_mtime_ns
    succeed("train", *START, *WORDS, "name=third", "seed=1", cwd=preset)
    assert f"init=experiment:stage/one is {first.relative_to(preset)}" in caplog.text
    assert len(runs(preset)) == 3
    assert (first / "result.json").stat().st_mtime_ns == stamp


def test_an_ordinary_run_of_the_preset_counts(preset: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A finished run is used, an unfinished one is resumed first."""
    succeed("train", "--config-dir", "mine", "experiment=stage/one", "logger=console", "threads=1", cwd=preset)
    (first,) = runs(preset).values()
    before = result(first)["test"]
    (first / "result.json").unlink()
    succeed("train", *START, *WORDS, "name=second", cwd=preset)
    assert f"going on with {first.relative_to(preset)}" in caplog.text
    assert result(first)["test"] == before
    assert len(runs(preset)) == 2


def test_a_preset_that_asks_for_what_the_machine_has_not(preset: Path) -> None:
    """Its run comes out in fp32, and is found by that."""
    file = preset / "mine" / "experiment" / "stage" / "one.yaml"
    file.write_text(f"{file.read_text()}precision: tf32\n")
    for name in ("second", "third"):
        succeed("train", *START, *WORDS, f"name={name}", "device=cpu", cwd=preset)
    assert len(runs(preset)) == 3
    assert RunFolder(runs(preset)["protonet_glyphs_5w1s"]).config["precision"] == "fp32"


@pytest.mark.slow
def test_in_a_sweep_two_jobs_share_it(preset: Path) -> None:
    sweep = ("train", "-m", *START, *WORDS, "seed=0,1", "hydra/launcher=basic", "name=s")
    succeed(*sweep, cwd=preset)
    assert len(runs(preset)) == 1
    jobs = sorted((preset / "outputs" / "sweeps" / "s").glob("*/result.json"))
    assert len(jobs) == 2
    assert len({result(job.parent)["train"]["init"]["weights"] for job in jobs}) == 1
    assert succeed(*sweep, cwd=preset).out.count("finished before: ") == 2


@pytest.mark.slow
def test_a_job_waits_for_the_process_that_trains_it(preset: Path, caplog: pytest.LogCaptureFixture) -> None:
    succeed("train", "--config-dir", "mine", "experiment=stage/one", "logger=console", "threads=1", cwd=preset)
    (first,) = runs(preset).values()
    kept = (first / "result.json").read_bytes()
    (first / "result.json").unlink()
    held = HeldRun.open(first)

    over = threading.Event()

    def finish() -> None:
        while "waiting for" not in caplog.text and not over.is_set():
            time.sleep(0.05)
        (first / "result.json").write_bytes(kept)
        held.close()

    other = threading.Thread(target=finish)
    other.start()
    try:
        succeed("train", *START, *WORDS, "name=second", cwd=preset)
    finally:
        over.set()
        other.join()
    assert caplog.text.count(f"waiting for {first.relative_to(preset)}, which another process trains") == 1
    assert len(runs(preset)) == 2


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("init=experiment:nope", "there is no 'experiment/nope'; available: "),
        ("init=experiment:", "init=experiment: names no preset"),
        ("init_part=backbone", "init_part=backbone without init; name the run that it is a part of: init=RUN"),
        ("init_part=head", "init_part=head is unknown; choose backbone"),
    ],
)
def test_refused(tmp_path: Path, word: str, message: str) -> None:
    assert message in refusal("train", *QUIET, word, cwd=tmp_path)
    assert not list(tmp_path.rglob("run.json"))


def test_a_part(tmp_path: Path, trained: Path) -> None:
    """MAML's backbone under a prototypical network, which has no head of its own."""
    small = [word for word in QUIET if not word.startswith(("algorithm", "trainer.steps"))]
    words = (*small, "algorithm=protonet", "trainer.steps=1", "trainer.optimizer.lr=0.0", f"init={trained}")
    said = refusal("train", *words, cwd=tmp_path)
    assert "the checkpoint does not fit this ProtoNet: not in the model: head" in said
    assert said.endswith("; init_part=backbone takes its backbone alone")
    succeed("train", *words, "init_part=backbone", cwd=tmp_path)
    run = only(tmp_path / "outputs" / "train")
    assert result(run)["train"]["init"]["part"] == "backbone"
    theirs, ours = weights(trained), weights(run)
    assert {key for key in theirs if not key.startswith("head.")} == set(ours)
    learned = [key for key in ours if key.endswith((".weight", ".bias"))]  # statistics of norms move at any rate
    assert learned
    assert all(torch.equal(ours[key], theirs[key]) for key in learned)


def test_init_counts_by_its_weights_not_by_its_path(
    tmp_path: Path, trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run resumes after the folder that it started from has moved, and other weights are another run."""
    first = tmp_path / "first"
    shutil.copytree(trained, first)
    words = (*WORDS, "init_part=backbone", "seed=3")
    succeed("train", *words, "init=first", cwd=tmp_path)
    run = only(tmp_path / "outputs" / "train")
    before = episodes(run)
    (run / "result.json").unlink()
    moved = tmp_path / "else where"
    first.rename(moved)
    succeed("train", *words, f"init={moved}", "resume=true", cwd=tmp_path)
    assert f"going on with {run.relative_to(tmp_path)}" in caplog.text
    assert episodes(run) == before

    (run / "result.json").unlink()
    manifest = moved / "checkpoints" / (moved / "checkpoints" / "best").read_text().strip() / "manifest.json"
    changed = json.loads(manifest.read_text())
    changed["files"]["state.safetensors"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(changed))
    said = refusal("train", *words, f"init={moved}", "resume=true", cwd=tmp_path)
    assert "damaged" in said or "differs in: init_weights: " in said


def test_classes_of_this_runs_test_are_refused(tmp_path: Path, trained: Path) -> None:
    """By name, whatever the data set object; the message has numbers and names."""
    classes = (RunFolder(trained).classes or {})["train"]
    names = ", ".join(sorted(classes)[:3])
    (tmp_path / "copies.py").write_text(COPY)
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "dataset" / "copy.yaml").write_text("_target_: copies.Copy\nnames: []\nsplit: test\n")
    words = ("train", "--config-dir", "mine", *QUIET, f"init={trained}", "dataset=copy")
    for split in ("test", "val"):
        said = refusal(*words, f"dataset.split={split}", f"dataset.names=[{','.join(map(repr, sorted(classes)[:7]))}]",
                       cwd=tmp_path)  # fmt: skip
        assert said == (
            f"7 of the 12 classes {'tested' if split == 'test' else 'validated'} on (evaluation.{split}_split={split}) "
            f"were trained on by init={trained}: {names} and 4 more; choose other splits or another run, or "
            "allow_overlap=true, which the result says"
        )
    assert not list(tmp_path.rglob("run.json"))


COPY = """
import torch
from fewshot.datasets.base import ImageSet


class Copy:
    def __init__(self, *, names, split) -> None:
        self.names, self.split = list(names), split

    def load(self) -> ImageSet:
        other = {"test": "val", "val": "test"}[self.split]
        names = self.names + [f"own {c}" for c in range(29)]
        names = names[:12] + names[12:]
        splits = {self.split: range(12), other: range(12, 24), "train": range(24, 36)}
        images = torch.randint(256, (36 * 4, 1, 28, 28), dtype=torch.uint8)
        return ImageSet(name="copy", images=images, offsets=torch.arange(37) * 4, class_names=names,
                        groups=["all"] * 36, splits=splits)
"""


def test_weights_remember_what_their_own_start_was_trained_on(tmp_path: Path, trained: Path) -> None:
    succeed("train", *WORDS, f"init={trained}", "init_part=backbone", cwd=tmp_path)
    run = only(tmp_path / "outputs" / "train")
    ours, theirs = ((RunFolder(path).classes or {})["train"] for path in (run, trained))
    assert set(ours) >= set(theirs)


def test_the_first_stage_finds_its_files_where_the_second_does() -> None:
    two = compose("config", ["experiment=meta_baseline/mini_imagenet_resnet12_512_5w1s", "dataset.root=/somewhere"])
    assert stages.compose_preset(two.config).config["dataset"] == two.config["dataset"]
