"""`fewshot evaluate`: the training run's number comes out exactly, and every other protocol can be asked for."""

import json
import re
import shutil
from pathlib import Path

import pytest
from command_line import QUIET, call, episodes, only, refusal, result, succeed
from omegaconf import OmegaConf


@pytest.fixture
def evaluated(tmp_path: Path, trained: Path):
    """evaluate(*words) -> the folder of a new evaluation of the trained run."""

    def evaluate(*words: str) -> Path:
        before = set(tmp_path.glob("outputs/evaluate/*/*"))
        succeed("evaluate", f"run={trained}", "threads=1", *words, cwd=tmp_path)
        (new,) = set(tmp_path.glob("outputs/evaluate/*/*")) - before
        return new

    return evaluate


def test_nothing_set_gives_the_training_runs_number(tmp_path: Path, trained: Path) -> None:
    done = call("evaluate", f"run={trained}", "threads=1", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    again = only(tmp_path / "outputs" / "evaluate")
    ours, theirs = result(again), result(trained)
    for key in ("test", "name", "algorithm", "dataset", "split", "ways", "shots", "queries", "protocol"):
        assert ours[key] == theirs[key], key
    assert ours["baselines"]["raw_pixels"] == theirs["baselines"]["raw_pixels"]
    assert ours["train"]["ways"] == 5
    assert (ours["val"], ours["paper"]) == (None, None)
    assert ours["run"] == str(trained)
    assert episodes(again) == episodes(trained)
    assert f"test accuracy  {theirs['test']['accuracy']:.2f} ± " in done.out


def test_another_protocol(evaluated, trained: Path) -> None:
    many = result(evaluated("shots=5", "queries=3", "evaluation.episodes=7", "algorithm.eval_inner_steps=2"))
    assert (many["shots"], many["queries"], many["test"]["episodes"]) == (5, 3, 7)
    assert many["protocol"]["queries_per_class"] == 3
    assert many["protocol"]["inner_steps_eval"] == 2

    other = evaluated("algorithm.norm_statistics=support", "split=val", "eval_seed=5", "checkpoint=last")
    protocol = result(other)["protocol"]
    assert (protocol["norm_statistics"], protocol["transductive"]) == ("support", False)
    assert (protocol["eval_seed"], protocol["checkpoint_rule"]) == (5, "last")
    assert result(other)["split"] == "val"
    assert OmegaConf.load(other / "config.yaml").algorithm.norm_statistics == "support"


def test_drawn_shots(evaluated, trained: Path) -> None:
    found = evaluated("shots={low:1,high:3,per:class}", "queries=3", "evaluation.episodes=7")
    assert result(found)["shots"] == "1 to 3 per class" and result(found)["test"]["episodes"] == 7
    assert found.parent.name == result(trained)["name"]
    assert OmegaConf.load(found / "config.yaml").shots == {"low": 1, "high": 3, "per": "class"}


def test_more_episodes_begin_with_the_same_ones(evaluated, trained: Path) -> None:
    assert [row[:20] for row in episodes(evaluated("evaluation.episodes=30")).values()] == list(
        episodes(trained).values()
    )


def test_a_learned_head_serves_its_own_ways(tmp_path: Path, trained: Path) -> None:
    said = refusal("evaluate", f"run={trained}", "threads=1", "ways=3", cwd=tmp_path)
    assert said.startswith("ways=3, but this head was learned for ways=5; evaluate with ways=5, or train with ")
    assert not list(tmp_path.rglob("run.json"))


def test_a_zero_head_serves_any(tmp_path: Path) -> None:
    succeed("train", *QUIET, "algorithm.head_init=zero", "trainer.steps=1", cwd=tmp_path)
    run = only(tmp_path / "outputs" / "train")
    succeed("evaluate", f"run={run}", "threads=1", "ways=3", "evaluation.episodes=5", cwd=tmp_path)
    assert result(only(tmp_path / "outputs" / "evaluate"))["ways"] == 3


def test_another_head_on_the_same_weights(tmp_path: Path, trained: Path) -> None:
    head = [word for word in QUIET if not word.startswith("algorithm.")]
    succeed("train", "algorithm=simpleshot", *head, "algorithm.stream.batch_size=8", "trainer.steps=1", cwd=tmp_path)
    run = only(tmp_path / "outputs" / "train")
    succeed("evaluate", f"run={run}", "threads=1", "algorithm=ridge", cwd=tmp_path)
    found = result(only(tmp_path / "outputs" / "evaluate"))
    assert (found["algorithm"], found["steps"], found["test"]["episodes"]) == ("ridge", 1, 20)
    done = call("evaluate", f"run={trained}", "threads=1", "algorithm=ridge", cwd=tmp_path)
    assert "does not fit this Ridge: missing: mean, batches, classifier.weight" in done.err


def test_other_data(tmp_path: Path, trained: Path) -> None:
    """Cross-domain, on a data set that the user's own file makes."""
    (tmp_path / "noise.py").write_text(DATA_SET)
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "dataset" / "noise.yaml").write_text("_target_: noise.Noise\nsize: 28\n")
    words = (
        "evaluate",
        "--config-dir",
        "mine",
        f"run={trained}",
        "threads=1",
        "dataset=noise",
        "evaluation.episodes=5",
        "paper={accuracy: 0, source: mine}",
    )
    succeed(*words, cwd=tmp_path)
    found = result(only(tmp_path / "outputs" / "evaluate"))
    assert found["dataset"] == "noise"
    assert found["paper"] == {"accuracy": 0.0, "ci95": None, "source": "mine", "tolerance": 0.3, "verdict": "above"}
    assert found["protocol"]["split_hash"] != result(trained)["protocol"]["split_hash"]

    said = refusal(*words, "dataset.size=32", cwd=tmp_path)
    assert said == ("the run was trained on images of 1x28x28, those of 'noise' are 1x32x32; set dataset.size=28")


DATA_SET = """
import torch
from fewshot.datasets.base import ImageSet


class Noise:
    def __init__(self, *, size: int) -> None:
        self.size = size

    def load(self) -> ImageSet:
        images = torch.randint(256, (60, 1, self.size, self.size), dtype=torch.uint8)
        names = [f"class {c}" for c in range(6)]
        splits = {"test": range(6)}
        return ImageSet(name="noise", images=images, offsets=torch.arange(7) * 10, class_names=names,
                        groups=["all"] * 6, splits=splits)
"""


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "evaluation.episods=5",
            "'evaluation.episods' is not a key of the configuration; near it: evaluation.episodes",
        ),
        ("+foo=1", "'foo' is not a key"),
        ("shots=abc", "shots=abc is a text, expected a whole number like the default shots=1"),
        ("evaluation.episodes=0", "evaluation.episodes=0 is below 2"),
        ("dataset=glyph", "omniglot, tiered_imagenet; did you mean glyphs?"),
        ("backbone=conv4", "backbone cannot be chosen here; its keys can be set: backbone.KEY=VALUE"),
        ("split=nope", "split 'nope' of 'glyphs' has no classes; there are: train ("),
        ("checkpoint=77", "choose best, last or one of [2, 4]"),
        ("--bogus", "unrecognized arguments: --bogus"),
        (
            "paper={accuracy: abc, source: x}",
            "Value 'abc' of type 'str' could not be converted to Float; give accuracy and ",
        ),
        ("paper={accuracy: 95}", "Missing mandatory value: source; give accuracy and source, and if known ci95 and "),
        ("paper=95", "paper=95: Invalid type assigned"),
    ],
)
def test_refused(tmp_path: Path, trained: Path, word: str, message: str) -> None:
    assert message in refusal("evaluate", f"run={trained}", "threads=1", word, cwd=tmp_path)
    assert not list(tmp_path.rglob("run.json"))


def test_a_checkpoint_that_does_not_fit(tmp_path: Path, trained: Path) -> None:
    said = refusal("evaluate", f"run={trained}", "threads=1", "backbone.filters=16", cwd=tmp_path, code=1)
    assert "other shape: backbone.blocks.0.0.weight [8, 1, 3, 3], model [16, 1, 3, 3]" in said


def test_no_run(tmp_path: Path) -> None:
    assert refusal("evaluate", cwd=tmp_path).startswith("evaluate needs the folder of a training run: ")
    assert refusal("evaluate", "run=nowhere", cwd=tmp_path) == (
        "run=nowhere is not the folder of a training run: it has no config.yaml"
    )


def test_cfg_job_is_the_runs_own_configuration(tmp_path: Path, trained: Path) -> None:
    done = succeed("evaluate", "--cfg", "job", f"run={trained}", "shots=5", cwd=tmp_path)
    printed, stored = OmegaConf.create(done.out), OmegaConf.load(trained / "config.yaml")
    assert (printed.shots, printed.run) == (5, str(trained))
    assert printed.algorithm == stored.algorithm
    assert printed.backbone == stored.backbone
    assert not list(tmp_path.iterdir())


def test_a_sweep_over_shots(tmp_path: Path, trained: Path) -> None:
    """Two folders named by their identities; the same command finds them, whatever the way that the run is named."""
    words = ("threads=1", "shots=1,2", "evaluation.episodes=3", "name=s", "hydra/launcher=basic")
    succeed("evaluate", "-m", f"run={trained}", *words, cwd=tmp_path)
    folders = sorted((tmp_path / "outputs" / "sweeps" / "s").glob("*/result.json"))
    assert sorted(result(file.parent)["shots"] for file in folders) == [1, 2]
    for file in folders:
        assert json.loads((file.parent / "run.json").read_text())["identity"] == file.parent.name
    moved = tmp_path / "moved"
    shutil.copytree(trained, moved)
    done = succeed("evaluate", "-m", "run=moved", *words, cwd=tmp_path)
    assert sorted(done.out.splitlines()) == [f"finished before: outputs/sweeps/s/{f.parent.name}" for f in folders]
    (moved / "checkpoints" / "4" / "manifest.json").write_text("other weights")
    said = refusal(
        "evaluate", "-m", "run=moved", "shots=1", "name=s", "checkpoint=4", "hydra/launcher=basic", cwd=tmp_path, code=1
    )
    assert "damaged" in said, "a result of other weights was taken for this one's"


def test_a_published_value_of_another_table_cell_gives_a_verdict(tmp_path: Path) -> None:
    """One training serves 5-way and 20-way; a run's own published value is of its own test alone."""
    words = ["experiment=maml/omniglot_5w1s", "algorithm=fomaml", "dataset=glyphs", "dataset.split=script",
             "algorithm.head_init=zero"]  # fmt: skip
    done = succeed("train", *QUIET, "seed=3", *words, cwd=tmp_path)
    assert re.search(r"%: not judged, the recipe was changed \(.* -> .*; .* and \d+ more\)", done.out)
    run = only(tmp_path / "outputs" / "train")
    paper = result(run)["paper"]
    assert (paper["source"], paper["verdict"]) == ("Finn 2017, Table 1", "not judged")  # a recipe that was cut short
    assert {"trainer.steps: 60000 -> 4", "queries: 1 -> 2"} <= set(paper["departures"])
    assert not {"seed", "logger"} & {text.split(":")[0] for text in paper["departures"]}
    assert result(run)["algorithm"] == "fomaml"
    succeed("evaluate", f"run={run}", "threads=1", "ways=3", "evaluation.episodes=5", cwd=tmp_path)
    first = only(tmp_path / "outputs" / "evaluate")
    assert (result(first)["paper"], result(first)["algorithm"]) == (None, "fomaml")
    succeed("evaluate", f"run={run}", "threads=1", "ways=3", "evaluation.episodes=5", "paper.accuracy=0.0",
            cwd=tmp_path)  # fmt: skip
    (second,) = {path for path in (tmp_path / "outputs" / "evaluate").glob("*/*") if path != first}
    assert result(second)["paper"]["verdict"] == "above"
