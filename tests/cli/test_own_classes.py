"""Meta-training on a user's own classes, from the folder to the result; too few of them, and other bad input."""

from pathlib import Path

import numpy as np
import pytest
from command_line import only, refusal, result, succeed
from composed import compose
from PIL import Image

from fewshot.engine.machine import Machine
from fewshot.identity import identity
from fewshot.plan import plan_training
from fewshot.prepare import prepare

OWN = ("dataset=folder", "dataset.root=mine", "dataset.size=8")
SHORT = ("algorithm=protonet", "algorithm.stream.tasks=1", "backbone=mlp", "queries=2", "trainer.steps=2", "threads=1",
         "evaluation.episodes=10", "evaluation.val_episodes=2", "logger=console")  # fmt: skip


def pictures(root: Path, classes: int, each: int = 5, name: str = "class") -> None:
    """A colour for each class, with noise on it."""
    random = np.random.default_rng(0)
    for c in range(classes):
        folder = root / f"group {c % 3}" / f"{name} {c}"
        folder.mkdir(parents=True)
        colour = random.integers(0, 256, 3)
        for i in range(each):
            noisy = colour + random.integers(-20, 20, (19, 17, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")


def test_thirty_classes_train_and_start_another_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures(tmp_path / "mine", 30)
    Image.new("RGB", (9, 9)).save(odd := tmp_path / "mine" / "group 0" / "class 3" / "0.bmp")
    odd.with_name("1.bmp").write_bytes(odd.read_bytes())
    succeed("train", *OWN, *SHORT, cwd=tmp_path)
    assert "mine: 1 copies of other pictures left out (group 0/class 3/1.bmp)" in caplog.text
    first = only(tmp_path / "outputs" / "train")
    told = result(first)
    assert told["dataset"] == "mine"
    assert told["test"]["accuracy"] > 40  # by colour
    assert (told["protocol"]["split"], told["protocol"]["stored_size"]) == ("fractions", [3, 9, 9])
    other = ("dataset=folder", "dataset.root=more", "dataset.size=8", "dataset.fractions=[0,0,1]")
    pictures(tmp_path / "more", 5, name="new")
    succeed("evaluate", f"run={first}", *other, cwd=tmp_path)
    evaluated = only(tmp_path / "outputs" / "evaluate")
    assert result(evaluated)["dataset"] == "more"
    content = result(evaluated)["protocol"]["content"]
    assert f"dataset_content: {content}\n" in (evaluated / "config.yaml").read_text()
    assert content != told["protocol"]["content"]

    Image.new("RGB", (9, 9), "red").save(odd)  # with other pictures it is another run
    second = (f"init={first}", "init_part=backbone", "trainer.steps=0", "output_dir=second")
    succeed("train", *OWN, *SHORT, *second, cwd=tmp_path)
    then = result(only(tmp_path / "second" / "train"))
    assert then["train"]["init"]["part"] == "backbone"
    assert then["protocol"]["content"] != told["protocol"]["content"]


def test_other_pictures_are_another_run(tmp_path: Path) -> None:
    """An unfinished run is not gone on with."""
    pictures(tmp_path / "mine", 15)
    machine = Machine.start("cpu", 1)

    def identity_now() -> str:
        config = compose("config", [*OWN, *SHORT, "ways=2", "dataset.root=" + str(tmp_path / "mine")]).config
        return identity(prepare(plan_training(config, {}), machine).config)

    before = identity_now()
    assert identity_now() == before
    Image.new("RGB", (9, 9)).save(tmp_path / "mine" / "group 0" / "class 3" / "0.png")
    assert identity_now() != before


def test_few_classes_are_better_off_with_a_pretrained_network(tmp_path: Path) -> None:
    pictures(tmp_path / "mine", 10, each=3)
    said = refusal("train", *OWN, *SHORT, cwd=tmp_path)
    better = f"do without training, with a pre-trained network: fewshot predict support={tmp_path}/mine query=NEW"
    assert said == f"ways=5 but split 'val' of 'mine' has 2 classes; lower ways, or {better}"
    said = refusal("data", "show", *OWN, "ways=3", "queries=3", cwd=tmp_path)
    assert "fewer than shots+queries=4 images" in said
    assert said.endswith("; lower shots or queries, or leave such classes out by dataset.at_least")
    said = succeed("data", "prepare", *OWN, cwd=tmp_path).out
    assert f"mine: 10 classes are few to learn about others from; better {better}\n" in said


def test_bad_folders_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine" / "a").mkdir(parents=True)
    assert refusal("data", "prepare", *OWN, cwd=tmp_path) == f"no pictures below {tmp_path}/mine"
    (tmp_path / "mine" / "b").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "mine" / "b" / "1.png")
    (tmp_path / "mine" / "a" / "1.jpg").write_text("no picture")
    said = refusal("train", *OWN, *SHORT, cwd=tmp_path)
    assert said.startswith(f"1 pictures cannot be used: {tmp_path}/mine/a/1.jpg cannot be read: it is no picture; ")
