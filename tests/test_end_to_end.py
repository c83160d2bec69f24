"""The real thing, small: train by the console script, read everything it leaves; every YAML file runs."""

import functools
import itertools
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb_record
from command_line import QUIET, call, episodes, metrics, only, result, succeed
from composed import compose
from omegaconf import OmegaConf
from presets import FOLDER, PRESETS, preset

from fewshot import assemble
from fewshot.datasets.base import ImageSet
from fewshot.engine.machine import Machine
from fewshot.engine.processes import ALONE
from fewshot.evaluation import evaluate
from fewshot.loggers.wandb import flatten

CONF = Path(__file__).parents[1] / "conf"
PAGES = (CONF.parent / "README.md", CONF.parent / "docs" / "own.md")
ALGORITHMS, BACKBONES = (
    sorted(file.stem for file in (CONF / group).glob("*.yaml")) for group in ("algorithm", "backbone")
)
LARGE: dict[str, tuple[str, ...]] = {  # networks of other packages, and what makes them small and offline
    "torchvision": (),
    "efficientnet_lite0": (),
    "timm": ("backbone.model=test_convnext", "backbone.weights=none", "backbone.size=32"),
}


def test_the_run_folder_is_complete(trained: Path) -> None:
    """What design.md promises of a run folder."""
    for name in (
        "config.yaml",
        "run.json",
        "classes.json",
        "metrics.jsonl",
        "result.json",
        "episodes/test.npz",
        "episodes/shown.npz",
    ):
        assert (trained / name).is_file(), name
    assert {path.name for path in (trained / "figures").iterdir()} == {
        "curves.png", "inner_steps.png", "episode.png", "embedding.png",
    }  # fmt: skip
    assert {path.name for path in (trained / "checkpoints").iterdir()} == {"2", "4", "last", "best"}
    for step in ("2", "4"):
        files = {path.name for path in (trained / "checkpoints" / step).iterdir()}
        assert files == {"manifest.json", "state.json", "state.safetensors"}
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", trained.name)
    assert trained.parent.name == "maml_glyphs_5w1s"
    config = OmegaConf.load(trained / "config.yaml")
    assert OmegaConf.to_container(config) == OmegaConf.to_container(config, resolve=True)
    assert json.loads((trained / "run.json").read_text())["identity"] == result(trained)["identity"]


KINDS = {
    "schema": int, "name": str, "algorithm": str, "dataset": str, "split": str, "ways": int, "shots": int,
    "queries": int, "seed": int, "steps": int,
    "backbone": {"name": str, "parameters": int, "image_size": list},
    "train": {"ways": int, "shots": int, "queries": int, "tasks": int, "split": str,
              "init": type(None), "sizes_drawn": type(None)},
    "baselines": {key: {"accuracy": float, "accuracy_ci95": float} for key in ("raw_pixels", "untrained")},
    "test": {"accuracy": float, "accuracy_ci95": float, "episodes": int, "loss": float, "embedded_once": bool,
             "inner_steps": list},
    "val": {"accuracy": float, "accuracy_ci95": float, "episodes": int, "loss": float, "split": str, "best_step": int},
    "paper": type(None),
    "timing": dict.fromkeys(("train_seconds", "seconds_per_step", "data_seconds_per_step",
                             "test_episodes_per_second", "peak_memory_mb"), float),
    "environment": {"fewshot": str, "torch": str, "python": str, "device": str, "threads": int, "processes": int,
                    "precision": str, "git": (str, type(None))},
    "finished": str, "identity": str, "warnings": list, "files": dict, "seal": str,
}  # fmt: skip
PROTOCOL = {
    "norm_statistics", "queries_per_class", "rotations", "resize", "inverted", "split_hash", "checkpoint_rule",
    "inner_steps_eval", "distance", "within_groups", "transductive", "eval_seed",
}  # fmt: skip


def check_kinds(value: Mapping[str, Any], kinds: Mapping[str, Any], where: str = "") -> None:
    assert set(value) == set(kinds), where
    for key, kind in kinds.items():
        if isinstance(kind, dict):
            check_kinds(value[key], kind, f"{where}{key}.")
        else:
            assert isinstance(value[key], kind), f"{where}{key}"


def test_result_json(trained: Path) -> None:
    found = result(trained)
    assert set(found.pop("protocol")) >= PROTOCOL
    check_kinds(found, KINDS)
    assert (found["schema"], found["ways"], found["shots"], found["queries"], found["steps"]) == (1, 5, 1, 2, 4)
    assert found["val"]["best_step"] in (2, 4)
    per_episode = episodes(trained)
    accuracy = per_episode["accuracy"]
    assert len(accuracy) == found["test"]["episodes"] == 20
    assert found["test"]["accuracy"] == pytest.approx(sum(accuracy) / 20, abs=1e-9)
    spread = math.sqrt(sum((a - found["test"]["accuracy"]) ** 2 for a in accuracy) / 19)
    assert found["test"]["accuracy_ci95"] == pytest.approx(1.96 * spread / math.sqrt(20), rel=1e-4)
    assert [len(row) for row in per_episode["classes"]] == [5] * 20
    assert [row[-1] for row in per_episode["step_accuracy"]] == accuracy  # after 0, 1, 2 and 3 inner steps
    assert {len(row) for row in per_episode["step_accuracy"]} == {4}


def test_metrics(trained: Path) -> None:
    rows = metrics(trained)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        train = {"step", "train/loss", "train/accuracy", "train/lr", "time/seconds"}
        val = {"val/accuracy", "val/accuracy_ci95", "val/loss"}
        assert set(row) == (train | val if row["step"] % 2 == 0 else train)
        assert 0 <= row["train/accuracy"] <= 100
    best = result(trained)["val"]
    assert rows[best["best_step"] - 1]["val/accuracy"] == best["accuracy"]


def test_wandb_holds_the_same(trained: Path) -> None:
    """Configuration, every row and the summary, read back from the offline record."""
    (folder,) = (trained / "wandb").glob("offline-run-*")
    records = wandb_record.records(folder)
    (run,) = records["run"]
    config = {key: value for key, value in run["config"]["update"].items() if not key.startswith("_")}
    assert config == OmegaConf.to_container(OmegaConf.load(trained / "config.yaml"))
    assert run["run_id"] == trained.name
    rows = [{k: v for k, v in row["item"].items() if not k.startswith("_")} for row in records["history"]]
    inner = [{"step": 4, "test/inner_step": step, **{f"test/inner_steps/{key}": value for key, value in mean.items()}}
             for step, mean in enumerate(result(trained)["test"]["inner_steps"])]  # fmt: skip
    *rows, pictures = rows
    assert rows == [*metrics(trained), *inner]
    shown = {f"figures/{path.stem}" for path in (trained / "figures").iterdir()}
    assert {key.partition(".")[0] for key in pictures} - {"step"} == shown
    summary: dict[str, Any] = {}
    for change in records["summary"]:
        summary |= change["update"]
    last: dict[str, Any] = {}
    for row in metrics(trained):
        last |= row
    found = result(trained)
    found["best"] = found.pop("val")  # `val/accuracy` is the last row's, as for every metric
    found = {key: value for key, value in found.items() if key not in ("files", "seal")}  # made after it
    expected = {**last, **flatten(found), "status": "finished"}
    assert {key: summary[key] for key in expected} == expected


def short(steps: int, *words: str) -> list[str]:
    """Tiny, whatever the algorithm and the network: only keys that all of them have."""
    every = [word for word in QUIET if not word.startswith(("algorithm.", "backbone.", "trainer."))]
    small = ["evaluation.episodes=4", "evaluation.val_episodes=4", "evaluation.tasks=4"]
    return [*every, *small, f"trainer.steps={steps}", "trainer.val_every=2", "trainer.log_every=1", *words]


SMALLER = {
    "algorithm.stream.tasks": 2, "algorithm.stream.batch_size": 16, "algorithm.adapt_steps": 2,
    "algorithm.steps": 2, "algorithm.iterations": 3, "algorithm.inner_steps": 2, "algorithm.eval_inner_steps": 3,
    "backbone.filters": 8, "backbone.widths": "[4,5,6,7]", "backbone.depth": 10, "backbone.widen": 1,
}  # fmt: skip


@functools.cache
def keys_of(choice: str) -> set[str]:
    """What can be set of an algorithm or a backbone, from its YAML file and those that it builds on."""
    group, _, name = choice.partition("=")
    keys: set[str] = set()
    while name:
        node = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))
        assert isinstance(node, dict)
        keys |= {f"{group}.{key}".replace("/", ".") for key in flatten(node)}
        own = [base for base in node.get("defaults", []) if isinstance(base, str) and base != "_self_"]
        name = own[0] if own else ""
    return keys


def chosen(**choices: str) -> list[str]:
    """Overrides for a small run of a chosen algorithm and backbone."""
    words = [f"{group}={name}" for group, name in choices.items()]
    keys = set().union(*map(keys_of, words))
    return words + [f"{key}={value}" for key, value in SMALLER.items() if key in keys]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_runs(tmp_path: Path, algorithm: str) -> None:
    succeed("train", *short(2, *chosen(algorithm=algorithm, backbone="mlp")), cwd=tmp_path)
    run = only(tmp_path / "outputs" / "train")
    assert [row["step"] for row in metrics(run)] == [1, 2]
    assert all(math.isfinite(row["train/loss"]) for row in metrics(run))
    assert result(run)["test"]["episodes"] == 4


@pytest.fixture(scope="module")
def glyphs() -> ImageSet:
    return assemble.load_images(compose("config", []).config)


def pairs() -> list[Any]:
    """Every algorithm with every backbone but the smallest, which is above. Quick are those of each network with one
    algorithm that adapts it and one that does not; two networks differ from another in nothing that stays here."""
    small = [backbone for backbone in BACKBONES if backbone not in (*LARGE, "mlp")]
    quick = list(itertools.product(("maml", "protonet"), set(small) - {"conv4_32", "resnet12_512"}))
    product = [*itertools.product(ALGORITHMS, small), *itertools.product(("maml", "protonet", "baseline"), LARGE)]
    return [pytest.param(*pair, marks=() if pair in quick else pytest.mark.slow) for pair in product]


@pytest.mark.parametrize(("algorithm", "backbone"), pairs())
def test_every_algorithm_with_every_backbone(glyphs: ImageSet, algorithm: str, backbone: str) -> None:
    """Two steps and a test, on what the command line would build."""
    words = [*chosen(algorithm=algorithm, backbone=backbone), *LARGE.get(backbone, ()), "queries=2"]
    two_steps_and_a_test(compose("config", words).config, glyphs)


def two_steps_and_a_test(config: dict[str, Any], images: ImageSet) -> None:
    """Losses are finite and gradients reach the weights."""
    made = assemble.make_algorithm(config, assemble.data_context(config, images), seed=0)
    optimizer = assemble.make_trainer(config).make_optimizer(made.parameters())
    cpu = torch.device("cpu")
    batches = assemble.training_stream(config, made, images, Machine(cpu, ALONE))
    for step in range(2):
        out = made(batches.batch(step))
        assert math.isfinite(out.loss.detach())
        optimizer.zero_grad()
        out.loss.backward()
        assert any(p.grad is not None and p.grad.any() for p in made.parameters())
        optimizer.step()
    found = evaluate(made, assemble.episode_sampler(config, images, "test", cpu), episodes=2, tasks=2)
    assert math.isfinite(found.loss)


@pytest.mark.parametrize(
    "algorithm",
    [
        "proto_maml", "maml algorithm.head_init=zero algorithm.norm_statistics=running", "reptile train_ways=3",
        "metaoptnet", "feat", "matching algorithm.full_context=true", "relation algorithm.norm_statistics=batch",
        *(pytest.param(like_maml, marks=pytest.mark.slow) for like_maml in ("maml_pp algorithm.head_init=zero",
                                                                           "metasgd train_ways=3")),
    ],
)  # fmt: skip
def test_training_on_episodes_of_drawn_size(glyphs: ImageSet, algorithm: str) -> None:
    """Whether each episode has its own or all of a step have one."""
    name, *words = algorithm.split()
    sizes = ["ways=3", "train_ways={low:2,high:4}", "train_shots={low:1,high:4}", "train_queries={rest_of:6}"]
    config = compose("config", [*chosen(algorithm=name, backbone="mlp"), *sizes, *words]).config
    two_steps_and_a_test(config, glyphs)


def test_a_result_says_how_sizes_were_drawn(tmp_path: Path) -> None:
    words = ["train_ways={low:3,high:8}", "train_shots={low:1,high:5}", *chosen(algorithm="proto_maml", backbone="mlp")]
    succeed("train", *short(1, *words), cwd=tmp_path)
    found = result(only(tmp_path / "outputs" / "train"))
    said = {"ways": "3 to 8", "shots": "1 to 5", "queries": 2, "tasks": 2, "sizes_drawn": "per step"}
    assert {key: found["train"][key] for key in said} == said


RANDOM = {"low": 1, "high": 9}, {"rest_of": 12}  # shots and queries of R2D2
ADAM, RFS = (0.001, 0, 0.0), (0.05, 0.9, 5e-4)
# What papers, or their authors' code, have: a batch or (tasks, ways, shots, queries); updates; rate, momentum, decay;
# queries, episodes and checkpoint of the test; accuracy.
RECIPES: dict[str, tuple[Any, int, tuple[float, ...], tuple[int, int, str], float]] = {
    "maml/cifar_fs_conv4_32_5w1s": ((4, 5, 1, 15), 60_000, ADAM, (1, 600, "last"), 58.9),
    "maml/cifar_fs_conv4_32_5w5s": ((4, 5, 5, 15), 60_000, ADAM, (5, 600, "last"), 71.5),
    "maml/mini_imagenet_conv4_32_5w1s": ((4, 5, 1, 15), 60_000, ADAM, (1, 600, "last"), 48.70),
    "maml/mini_imagenet_conv4_32_5w5s": ((4, 5, 5, 15), 60_000, ADAM, (5, 600, "last"), 63.11),
    "protonet/cifar_fs_conv4_5w1s": ((1, 5, 1, 15), 40_000, ADAM, (15, 10_000, "best"), 55.5),
    "protonet/cifar_fs_conv4_5w5s": ((1, 5, 5, 15), 20_000, ADAM, (15, 10_000, "best"), 72.0),
    "protonet/mini_imagenet_conv4_5w1s": ((1, 30, 1, 15), 20_000, ADAM, (15, 600, "best"), 49.42),
    "protonet/mini_imagenet_conv4_5w5s": ((1, 20, 5, 15), 20_000, ADAM, (15, 600, "best"), 68.20),
    "rfs/cifar_fs_conv4": (64, 90 * 600, RFS, (15, 600, "last"), 62.7),
    "rfs/cifar_fs_resnet12": (64, 90 * 600, RFS, (15, 600, "last"), 71.5),
    "rfs/fc100_conv4": (64, 90 * 562, RFS, (15, 600, "last"), 39.6),
    "rfs/fc100_resnet12": (64, 90 * 562, RFS, (15, 600, "last"), 42.6),
    "rfs/mini_imagenet_conv4": (64, 100 * 600, RFS, (15, 600, "last"), 55.25),
    "rfs/mini_imagenet_resnet12": (64, 100 * 600, RFS, (15, 600, "last"), 62.02),
    "simpleshot/mini_imagenet_conv4": (256, 90 * 150, (0.1, 0.9, 1e-4), (15, 10_000, "best"), 49.69),
    "classifier_baseline/mini_imagenet_resnet12_512": (128, 100 * 300, (0.1, 0.9, 5e-4), (15, 8000, "last"), 58.91),
    "meta_baseline/mini_imagenet_resnet12_512_5w1s":
        ((4, 5, 1, 15), 20 * 200, (0.001, 0.9, 5e-4), (15, 8000, "best"), 63.17),
    "meta_baseline/mini_imagenet_resnet12_512_5w5s":
        ((4, 5, 5, 15), 20 * 200, (0.001, 0.9, 5e-4), (15, 8000, "best"), 79.26),
    "metaoptnet/cifar_fs_resnet12": ((8, 5, 5, 6), 60 * 1000, (0.1, 0.9, 5e-4), (15, 1000, "best"), 84.3),
    "r2d2/cifar_fs_r2d2_net_5w1s": ((1, 20, *RANDOM), 24_000, (0.005, 0, 0.0), (47, 10_000, "best"), 65.4),
    "r2d2/cifar_fs_r2d2_net_5w5s": ((1, 20, *RANDOM), 24_000, (0.005, 0, 0.0), (43, 10_000, "best"), 79.4),
}  # fmt: skip


def test_recipes_are_those_of_presets() -> None:
    assert {name for name in PRESETS if "omniglot" not in name} == set(RECIPES)
    page = (CONF.parent / "docs" / "results.md").read_text()
    for name, (*_, accuracy) in RECIPES.items():
        (row,) = re.findall(rf"^\| .*`{name}`.*$", page, re.MULTILINE)
        assert accuracy in [float(word) for word in row.split() if word[0].isdigit()], f"{name}: {row}"


@pytest.mark.parametrize("experiment", PRESETS)
def test_every_experiment_composes_and_names_its_paper(experiment: str) -> None:
    config, chose = preset(experiment).config, preset(experiment).choices
    assert config["paper"]["accuracy"] > 0
    assert config["paper"]["source"]
    task = f"(_{config['ways']}w{config['shots']}s)?(_fast|_trainval)?"
    named = re.fullmatch(f"{chose['dataset']}(?:_(.+?))??{task}", experiment.partition("/")[2])
    assert named and str(chose["backbone"]).startswith(named[1] or ""), (
        "its name tells another data set, network or task"
    )
    text = (FOLDER / f"{experiment}.yaml").read_text()
    assert f"# fewshot train experiment={experiment}\n" in text, "its header names another command"
    if experiment in RECIPES:
        stream, trainer, optimizer = (config["algorithm"]["stream"], config["trainer"], config["trainer"]["optimizer"])
        batch = stream.get("batch_size") or tuple(stream[key] for key in ("tasks", "ways", "shots", "queries"))
        rate = optimizer["lr"], optimizer.get("momentum", 0), optimizer["weight_decay"]
        test = config["queries"], config["evaluation"]["episodes"], trainer["test_checkpoint"]
        assert (batch, trainer["steps"], rate, test, config["paper"]["accuracy"]) == RECIPES[experiment]


def test_a_data_set_may_say_how_long_to_train_and_whoever_says_otherwise_wins() -> None:
    def length(*words: str) -> tuple[int, int]:
        trainer = compose("config", words).config["trainer"]
        return trainer["steps"], trainer["val_every"]

    assert length() == length("dataset=fc100") == (350, 100)
    assert length("dataset=omniglot") == (2500, 250)
    assert length("dataset=omniglot", "trainer.steps=7") == (7, 250)
    for name in ("maml/omniglot_5w1s", "protonet/omniglot_5w1s", "reptile/omniglot_5w1s", "maml_pp/omniglot_20w1s"):
        assert preset(name).config == compose("config", [f"experiment={name}", "length=none"]).config


EMBEDDED = ("dataset=glyphs", "dataset.split=script")


ONE_OF_EACH = {re.sub(r"_\d+w\d+s|(cifar_fs|fc100|mini_imagenet)_", "", name): name for name in reversed(PRESETS)}


@pytest.fixture(scope="module")
def photographs() -> ImageSet:
    """Noise in colour: 60 classes to train on, 20 to test on."""
    return ImageSet(
        name="noise", images=torch.randint(0, 256, (1600, 3, 32, 32), dtype=torch.uint8),
        offsets=torch.arange(81) * 20, class_names=[str(c) for c in range(80)], groups=["all"] * 80,
        splits={"train": range(60), "trainval": range(60), "test": range(60, 80)},
    )  # fmt: skip


@pytest.mark.parametrize("experiment", ONE_OF_EACH.values())
def test_every_experiment_trains(photographs: ImageSet, experiment: str) -> None:
    """Two steps, on noise instead of photographs, of presets that differ in more than data set, ways and shots."""
    chose = preset(experiment).choices
    smaller = chosen(algorithm=str(chose["algorithm"]), backbone=str(chose["backbone"]))
    config = compose("config", [f"experiment={experiment}", *smaller, "queries=2", "ways=5", "train_ways=5"]).config
    two_steps_and_a_test(config, photographs)


def test_a_preset_ends_with_a_verdict(tmp_path: Path) -> None:
    """Which is that a recipe on other data cannot be judged."""
    words = "experiment=protonet/omniglot_5w1s"
    succeed("train", *short(2, words, *EMBEDDED), cwd=tmp_path)
    paper = result(only(tmp_path / "outputs" / "train"))["paper"]
    assert paper["accuracy"] == compose("config", [words]).config["paper"]["accuracy"]
    assert paper["verdict"] == "not judged"
    assert any(text.startswith("dataset._target_: ") for text in paper["departures"])


def documented_files() -> dict[str, str]:
    """The files of a user's own in the pages: each block of code whose first line names its path."""
    text = "".join(page.read_text() for page in PAGES)
    blocks = re.findall(r"^```\w+\n# (mine/\S+|conf/\S+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return dict(blocks)


def test_a_users_own_algorithm_backbone_and_data(tmp_path: Path) -> None:
    """The documented files in a user's folder, none of this project's touched."""
    files = documented_files()
    assert len(files) == 6
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    own = ("--config-dir", "./conf", "algorithm=nearest", "backbone=tiny", "dataset=stripes")
    succeed("train", *own, *short(6, "algorithm.temperature=5.0", "backbone.width=12"), cwd=tmp_path)
    run = only(tmp_path / "outputs" / "train")
    found = result(run)
    expected = ("nearest_stripes_5w1s", "nearest", "stripes")
    assert (run.parent.name, found["algorithm"], found["dataset"]) == expected
    assert [row["step"] for row in metrics(run)] == [1, 2, 3, 4, 5, 6]
    succeed("evaluate", f"run={run}", "threads=1", "shots=3", "ways=4", cwd=tmp_path)
    assert result(only(tmp_path / "outputs" / "evaluate"))["shots"] == 3
    assert call("check", *own, "threads=1", cwd=tmp_path).code == 0
    words = ("--config-dir", "conf", "prepare", "stripes")
    assert "stripes: 288 images of 1x28x28, split " in succeed("data", *words, cwd=tmp_path).out
    assert "\nstripes\n" in succeed("data", "--config-dir", "conf", "list", cwd=tmp_path).out
