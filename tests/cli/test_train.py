"""`fewshot train` beside its numbers: where it refuses to start, what it resumes, and sweeps."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import QUIET, episodes, metrics, only, refusal, result, start, succeed
from omegaconf import OmegaConf

from fewshot.engine import runtime
from fewshot.held_run import HeldRun
from fewshot.identity import identity
from fewshot.run_folder import RunFolder


def test_nowhere_to_write_is_found_before_data_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    said = refusal("train", "output_dir=a file", "dataset=omniglot", "data_dir=/nowhere", cwd=tmp_path)
    assert said == "cannot write in a file/train/maml_omniglot_5w1s: Not a directory; choose another output_dir"


def test_data_that_is_not_there(tmp_path: Path) -> None:
    words = ("dataset=omniglot", "data_dir=nowhere", "dataset.download=false", f"cache_dir={tmp_path}/cache")
    said = refusal("train", *QUIET, *words, cwd=tmp_path)
    assert re.search(r"put .*images_background\.zip \(\d+ bytes, sha256 [0-9a-f]{64}\) and .* into nowhere", said)
    assert not list(tmp_path.rglob("run.json"))


def test_an_archive_that_is_damaged(tmp_path: Path) -> None:
    raw = tmp_path / "data" / "omniglot-py"
    raw.mkdir(parents=True)
    for name in ("images_background.zip", "images_evaluation.zip"):
        (raw / name).write_bytes(b"PK\x03\x04 and then nothing")
    words = ("dataset=omniglot", "data_dir=data", f"cache_dir={tmp_path}/cache")
    said = refusal("train", *QUIET, *words, cwd=tmp_path)
    assert str(Path("data", "omniglot-py", "images_background.zip")) in said
    assert "sha256" in said
    assert not list((tmp_path / "cache").glob("omniglot-*/meta.json"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_cuda_where_there_is_none(tmp_path: Path) -> None:
    said = refusal("train", "device=cuda", cwd=tmp_path)
    assert said == "device=cuda, but this machine has no CUDA device; use device=auto or device=cpu"


def test_a_head_that_cannot_be_validated_is_found_before_training(tmp_path: Path) -> None:
    said = refusal("train", *QUIET, "train_ways=3", "ways=2", cwd=tmp_path)
    assert said.startswith("ways=2, but this head was learned for ways=3; evaluate with ways=3, or train with")
    assert not list(tmp_path.rglob("run.json"))


def test_what_is_printed(trained: Path) -> None:
    here = trained.parents[3]
    out, err = (here / "stdout").read_text().splitlines(), (here / "stderr").read_text()
    assert [line.split("  ")[0] for line in out if line.startswith("step")] == ["step 1/4", "step 2/4", "step 4/4"]
    assert re.fullmatch(r"W&B: offline; to upload: wandb sync .*/wandb/offline-run-\*\n", err)
    assert ["folder", str(trained.relative_to(here))] in [line.split() for line in out]
    accuracy = result(trained)["test"]["accuracy"]
    assert out[-1].startswith("test accuracy ") and f"{accuracy:.2f} ± " in out[-1]
    assert max(map(len, out)) < 400


def test_resume(tmp_path: Path, trained: Path) -> None:
    run = tmp_path / trained.relative_to(trained.parents[3])
    shutil.copytree(trained, run)

    # a finished run is never resumed
    said = refusal("train", *QUIET, f"resume={run}", cwd=tmp_path)
    assert said.startswith(f"{run} is finished; trainer.steps=MORE trains it longer, fewshot evaluate run={run}")
    assert refusal("train", *QUIET, "resume=true", cwd=tmp_path).startswith("resume=true, but no unfinished run")

    # as a run that was killed after its last checkpoint
    before = metrics(run)
    (run / "result.json").unlink()
    other = ("algorithm.inner_lr=0.5", "seed=3")
    said = refusal("train", *QUIET, *other, "resume=true", cwd=tmp_path)
    assert "differs in: algorithm.inner_lr: 0.2 -> 0.5; seed: 0 -> 3; use resume=auto" in said
    said = refusal("train", *QUIET, *other, f"resume={run}", cwd=tmp_path)
    assert f"{run} was run with another configuration (algorithm.inner_lr: 0.2 -> 0.5; seed: 0 -> 3)" in said
    assert refusal("train", *QUIET, "resume=nowhere", cwd=tmp_path).startswith("resume=nowhere is not a run folder")

    # what does not change the numbers does not matter, nor does the place
    moved = tmp_path / "else where" / "ein Lauf"
    shutil.move(run, moved)
    succeed("train", *QUIET, f"resume={moved}", "output_dir=other", cwd=tmp_path)
    assert metrics(moved) == before
    assert result(moved)["test"] == result(trained)["test"]
    assert not list(tmp_path.glob("outputs/train/*/*"))


def test_a_run_that_starts_from_anothers_weights(tmp_path: Path, trained: Path) -> None:
    succeed("train", *QUIET, f"init={trained}", "trainer.steps=0", "train_shots=5", "seed=7", cwd=tmp_path)
    run = only(tmp_path / "outputs" / "train")
    assert episodes(run) == episodes(trained)  # no step was made: it is the other one
    init = result(run)["train"]["init"]
    assert init == {"path": str(trained), "weights": RunFolder(trained).weights("best"), "part": None}

    said = refusal("train", *QUIET, "init=nowhere", cwd=tmp_path)
    assert said == "init=nowhere is not the folder of a finished training run; choose one that has ended"
    said = refusal("train", *QUIET, f"init={trained}", "backbone.filters=3", cwd=tmp_path)
    assert said.startswith(f"init={trained}: the checkpoint does not fit this MAML: other shape: ")
    old = tmp_path / "of version 0.1"  # which did not keep the names of its classes
    shutil.copytree(trained, old)
    (old / "classes.json").unlink()
    record = json.loads((old / "result.json").read_text())
    del record["files"]
    (old / "result.json").write_text(json.dumps(record))
    said = refusal("train", *QUIET, f"init={old}", "train_split=trainval", cwd=tmp_path)
    assert "trained on other classes" in said and "(train_split: train -> trainval)" in said


@pytest.fixture
def matrix_units(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """matrix_units(there): a machine with or without them from here on."""
    return lambda there: monkeypatch.setattr(runtime, "has_matrix_units", lambda device: there)


def precision(run: Path) -> tuple[str, str]:
    return OmegaConf.load(run / "config.yaml").precision, result(run)["environment"]["precision"]


def test_precision_auto_is_what_algorithm_and_machine_can_do(
    tmp_path: Path, matrix_units: Callable[[bool], None]
) -> None:
    matrix_units(True)
    for algorithm, there in (("protonet", "bf16"), ("maml", "fp32")):
        words = ("algorithm=" + algorithm, "trainer.steps=1", f"output_dir={algorithm}", "device=cpu")
        succeed("train", *QUIET, *words, cwd=tmp_path)
        assert precision(only(tmp_path / algorithm / "train")) == (there, there)


def test_an_evaluation_computes_as_its_run_did_unless_told_otherwise(
    tmp_path: Path, matrix_units: Callable[[bool], None]
) -> None:
    matrix_units(True)
    succeed("train", *QUIET, "algorithm=protonet", "device=cpu", cwd=tmp_path)
    run = only(tmp_path / "outputs" / "train")
    matrix_units(False)
    for words, there in (((), "bf16"), (("precision=auto",), "fp32")):
        shutil.rmtree(tmp_path / "outputs" / "evaluate", ignore_errors=True)
        succeed("evaluate", f"run={run}", "threads=1", *words, cwd=tmp_path)
        again = only(tmp_path / "outputs" / "evaluate")
        assert precision(again) == (there, there)
        assert (result(again)["test"] == result(run)["test"]) is (there == "bf16")


def test_a_run_does_not_go_on_in_another_precision(tmp_path: Path, matrix_units: Callable[[bool], None]) -> None:
    """`auto` elsewhere is another run; a sweep's job, whose folder is named by what was asked, keeps its precision."""
    words = (*QUIET, "algorithm=protonet", "device=cpu")
    matrix_units(True)
    succeed("train", *words, cwd=tmp_path)
    run = only(tmp_path / "outputs" / "train")
    (run / "result.json").unlink()
    matrix_units(False)
    said = refusal("train", *words, "resume=true", cwd=tmp_path)
    assert "differs in: precision: bf16 -> fp32; use resume=auto" in said
    succeed("train", *words, "resume=true", "precision=bf16", cwd=tmp_path)
    assert precision(run) == ("bf16", "bf16")

    matrix_units(True)
    sweep = ("train", "-m", *words, "hydra/launcher=basic", "seed=0", "name=s")
    succeed(*sweep, cwd=tmp_path)
    (job,) = (tmp_path / "outputs" / "sweeps" / "s").glob("*/result.json")
    before = result(job.parent)["test"]
    job.unlink()
    matrix_units(False)
    succeed(*sweep, cwd=tmp_path)
    assert precision(job.parent) == ("bf16", "bf16")
    assert result(job.parent)["test"] == before


@pytest.mark.slow  # tests/sweep/test_launch.py has its parts
def test_a_sweep_goes_on_after_a_job_that_fails(tmp_path: Path) -> None:
    small = [word for word in QUIET if not word.startswith("algorithm.")]
    done = start(
        "train",
        "-m",
        *small,
        "algorithm=baseline,protonet",
        "shots=1,30",
        "name=s",
        "hydra/launcher=basic",
        cwd=tmp_path,
    )
    assert done.code == 1
    assert done.err.count("shots+queries=32 images") == 2
    finished = [result(file.parent) for file in tmp_path.glob("outputs/**/result.json")]
    assert sorted((run["algorithm"], run["shots"]) for run in finished) == [("baseline", 1), ("protonet", 1)]


@pytest.mark.slow
def test_a_sweep_lies_where_the_same_command_finds_it(tmp_path: Path) -> None:
    """Under Hydra's own launcher, too: finished jobs are skipped, a half-done one is resumed, others are new."""
    sweep = ("train", "-m", *QUIET, "hydra/launcher=basic", "seed=0,1")
    succeed(*sweep, cwd=tmp_path)
    (here,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert re.fullmatch("seed-0-1_[0-9a-f]{6}", here.name)
    runs = sorted(file.parent for file in here.glob("*/run.json"))
    before = {run.name: (result(run), metrics(run)) for run in runs}
    for run in runs:  # the folder is named by what was asked; the run's identity is of what it came to
        config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
        assert json.loads((run / "run.json").read_text())["identity"] == identity(config)
        assert config["precision"] != "auto"
        assert identity(config | {"precision": "auto"}) == run.name

    half, whole = runs
    (half / "result.json").unlink()
    shutil.rmtree(half / "checkpoints" / "4")
    (half / "checkpoints" / "last").write_text("2")
    stamp = (whole / "result.json").stat().st_mtime_ns
    done = succeed(*sweep, "logger=[]", "output_dir=outputs", cwd=tmp_path)
    assert f"finished before: outputs/sweeps/{here.name}/{whole.name}\n" in done.out
    assert (whole / "result.json").stat().st_mtime_ns == stamp
    for key in ("test", "val", "baselines", "steps"):
        assert result(half)[key] == before[half.name][0][key]
    assert [row["train/loss"] for row in metrics(half)] == [row["train/loss"] for row in before[half.name][1]]

    held = HeldRun.open(half)
    (half / "result.json").unlink()
    assert "is in use by a running process" in refusal(*sweep, cwd=tmp_path, code=1)
    held.close()
    assert "resume=false in a sweep" in refusal(*sweep, "resume=false", cwd=tmp_path, code=1)
    succeed(*sweep, "trainer.steps=2", "name=mine", cwd=tmp_path)
    assert len(list((tmp_path / "outputs" / "sweeps" / "mine").glob("*/result.json"))) == 2


def test_a_sweep_over_a_users_own_key_called_name(tmp_path: Path) -> None:
    """`backbone.name=a,b` are two runs with two results: only the run's own name is outside its identity."""
    (tmp_path / "named.py").write_text(
        "from fewshot.backbones.mlp import MLP\n\n\n"
        "class Named(MLP):\n"
        "    def __init__(self, image_shape, *, name):\n"
        "        super().__init__(image_shape, widths={'a': [4], 'b': [6]}[name], norm='none')\n"
    )
    (tmp_path / "mine" / "backbone").mkdir(parents=True)
    (tmp_path / "mine" / "backbone" / "named.yaml").write_text("_target_: named.Named\nname: a\n")
    small = [word for word in QUIET if not word.startswith("backbone.")]
    words = ("--config-dir", "mine", *small, "algorithm=protonet", "backbone=named", "trainer.steps=1")
    succeed("train", "-m", *words, "backbone.name=a,b", "name=s", "hydra/launcher=basic", cwd=tmp_path)
    runs = [file.parent for file in (tmp_path / "outputs" / "sweeps" / "s").glob("*/result.json")]
    networks = {OmegaConf.load(run / "config.yaml").backbone.name: result(run)["backbone"] for run in runs}
    assert {name: network["parameters"] for name, network in networks.items()} == {"a": 784 * 4 + 4, "b": 784 * 6 + 6}
    assert {network["name"] for network in networks.values()} == {"named"}
    assert len({result(run)["identity"] for run in runs}) == 2


def test_a_sweep_over_a_key_that_one_algorithm_lacks(tmp_path: Path) -> None:
    said = refusal("train", "-m", *QUIET, "algorithm=maml,baseline", cwd=tmp_path)
    assert said.startswith("'algorithm.stream.tasks' is not a key of the configuration; near it: algorithm.stream, ")


def test_odd_names(tmp_path: Path) -> None:
    """Spaces, Unicode and signs that Hydra's grammar reserves, in paths and names."""
    here = tmp_path / "mein Ordner (2)"
    here.mkdir()
    words = ("algorithm=protonet", "trainer.steps=1", "output_dir=Läufe = 中文", "name=größe a=b")
    succeed("train", *QUIET, *words, cwd=here)
    run = only(here / "Läufe = 中文" / "train")
    assert run.parent.name == "größe a=b"
    succeed("evaluate", f"run={run.relative_to(here)}", "threads=1", "evaluation.episodes=3", cwd=here)
    assert only(here / "outputs" / "evaluate").parent.name == "größe a=b"


def test_a_part_of_the_model_that_is_not_there_is_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    said = refusal("train", *QUIET, "trainer.rate_factors={attention: 10}", cwd=tmp_path)
    assert said == "trainer.rate_factors: 'attention' is no trainable part of the model; it has backbone, head"
    assert not list(tmp_path.glob("outputs/train/*/*"))
