"""A run folder that somebody sent is data: nothing in it is imported, called or obeyed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import call, only, refusal, result, succeed

import fewshot
from fewshot.errors import InputError
from fewshot.signature import sign

Sent = Callable[..., Path]
CODE = """
import pathlib
from torch import nn

pathlib.Path("imported").write_text("")


class ReLU(nn.ReLU):
    pass


def anything(*args, **keys):
    pathlib.Path("called").write_text("")
"""


@pytest.fixture
def sent(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Sent:
    """sent({"dataset._target_": "x.Y"}) -> ./sent, the trained run with these keys changed; beside it strange.py."""
    (tmp_path / "strange.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(changes: dict[str, Any], *, signed: bool = False) -> Path:
        run = tmp_path / "sent"
        shutil.copytree(trained, run, dirs_exist_ok=True)
        config = yaml.safe_load((trained / "config.yaml").read_text())
        for path, value in changes.items():
            *groups, key = path.split(".")
            place = config
            for group in groups:
                place = place[group]
            place[key] = value
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        if signed:
            about = json.loads((run / "run.json").read_text())
            about["signature"] = sign((run / "config.yaml").read_bytes())
            (run / "run.json").write_text(json.dumps(about))
        return run

    return make


@pytest.mark.parametrize(
    ("changes", "where", "target"),
    [
        ({"dataset._target_": "strange.anything"}, "dataset._target_", "strange.anything"),
        ({"backbone": {"_target_": "strange.anything"}}, "backbone._target_", "strange.anything"),
        ({"algorithm": {"_target_": "strange.anything"}}, "algorithm._target_", "strange.anything"),
        ({"backbone.activation": {"_target_": "strange.anything"}}, "backbone.activation._target_", "strange.anything"),
        ({"dataset.size": [{"a": {"_target_": "strange.anything"}}]}, "dataset.size.0.a._target_", "strange.anything"),
        ({"augment.train": {"x": {"_target_": "strange.anything"}}}, "augment.train.x._target_", "strange.anything"),
        ({"backbone.activation": {"_target_": "torch.load", "f": "x.pt", "weights_only": False}},
         "backbone.activation._target_", "torch.load"),
        ({"backbone.activation": {"_target_": "numpy.load", "file": "x.npy", "allow_pickle": True}},
         "backbone.activation._target_", "numpy.load"),
        ({"backbone.activation": {"_target_": "torch.nn.modules.module.torch.os.system", "command": "touch called"}},
         "backbone.activation._target_", "torch.nn.modules.module.torch.os.system"),
        ({"backbone.activation": {"_target_": "fewshot.datasets.cache.shutil.rmtree", "path": "x"}},
         "backbone.activation._target_", "fewshot.datasets.cache.shutil.rmtree"),
        ({"backbone.activation": {"_target_": "fewshot.cli.main"}}, "backbone.activation._target_", "fewshot.cli.main"),
        ({"backbone.activation": {"_target_": "\x1b[2Jx.y"}}, "backbone.activation._target_", r"\x1b[2Jx.y"),
    ],
)  # fmt: skip
def test_code_is_not_followed(tmp_path: Path, sent: Sent, changes: dict[str, Any], where: str, target: str) -> None:
    run = sent(changes)
    said = refusal("evaluate", "run=sent", "threads=1", cwd=tmp_path)
    assert said == (
        f"sent was not made here, and its {where} names code that is neither fewshot's nor torch.nn's: {target}; "
        "set trust=true where you know that code and who sent the run"
    )
    if where.split(".")[0] in ("backbone", "algorithm"):
        with pytest.raises(InputError, match="was not made here"):
            fewshot.load(run).model  # noqa: B018
    assert not (tmp_path / "imported").exists()
    assert not (tmp_path / "called").exists()


def test_a_report_constructs_nothing(tmp_path: Path, sent: Sent) -> None:
    sent({"dataset._target_": "strange.anything", "backbone": {"_target_": "strange.anything"}})
    assert "1 run finished" in succeed("report", "sent", cwd=tmp_path).out
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("own", [True, False])
def test_own_code_of_an_own_run_and_trust(tmp_path: Path, sent: Sent, trained: Path, own: bool) -> None:
    """Signed with this user's key, or trusted: the number is that of the same network."""
    sent({"backbone.activation": {"_target_": "strange.ReLU"}}, signed=own)
    succeed("evaluate", "run=sent", "threads=1", *([] if own else ["trust=true"]), cwd=tmp_path)
    assert (tmp_path / "imported").exists()
    assert result(only(tmp_path / "outputs" / "evaluate"))["test"] == result(trained)["test"]


def test_a_name_that_leads_elsewhere(tmp_path: Path, sent: Sent) -> None:
    """The folder of an evaluation is named after the run."""
    run = sent({})
    told = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(told | {"name": "../../../elsewhere"}))
    said = refusal("evaluate", "run=sent", "threads=1", cwd=tmp_path)
    assert said.startswith("sent/result.json is damaged: name is ../../../elsewhere, which is no name of one folder")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hydra": {"callbacks": {"x": {"_target_": "strange.anything"}}}},
            "it has the key hydra, which no run writes",
        ),
        ({"defaults": [{"override hydra/launcher": "ray"}]}, "it has the key defaults, which no run writes"),
    ],
)
def test_keys_that_hydra_would_obey(tmp_path: Path, sent: Sent, changes: dict[str, Any], message: str) -> None:
    sent(changes)
    assert refusal("evaluate", "run=sent", "trust=true", cwd=tmp_path) == f"sent/config.yaml is damaged: {message}"
    assert not (tmp_path / "imported").exists()


def test_nothing_is_filled_in(tmp_path: Path, sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpolation in a record is text: neither environment nor other keys go where the sender wants them."""
    monkeypatch.setenv("SECRET", "4711")
    sent({"dataset.split": "${oc.env:SECRET}", "train_split": "\\${seed}"})
    done = succeed("evaluate", "run=sent", "--cfg", "job", "--resolve", cwd=tmp_path)
    assert "4711" not in done.out
    printed = yaml.safe_load(done.out)
    assert (printed["dataset"]["split"], printed["train_split"]) == ("${oc.env:SECRET}", "\\${seed}")


def test_records_stay_in_their_folder_and_are_shown(tmp_path: Path, sent: Sent) -> None:
    """A log elsewhere is not printed, and no escape reaches the terminal or a file."""
    run = sent({})
    told = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(told | {"name": "a\x1b[2Jb\nc", "algorithm": "maml\x1b]0;x\x07"}))
    (tmp_path / "secret").write_text("4711\n")
    shutil.copytree(run, os.fsdecode(os.fsencode(tmp_path) + b"/l\xe4ufe"))  # a name that is no UTF-8
    job = {"number": 0, "identity": None, "overrides": ["seed=\x1b[2J"], "status": "failed", "reason": "\x1b[2J"}
    sweep = tmp_path / "sweep"
    (sweep / "logs").mkdir(parents=True)
    (sweep / "logs" / "0.log").write_text("said \x1b[2J\n")
    for log, shown in (
        ("logs/0.log", r"said \x1b[2J"),
        ("../secret", "which is not in it"),
        ("/etc/passwd", "not in it"),
    ):
        (sweep / "sweep.json").write_text(json.dumps({"jobs": [job | {"log": log}]}))
        words = ("report", ".", "--csv", "r.csv", "--markdown", "r.md", "--html", "r.html")
        done = call(*words, cwd=tmp_path)
        assert (done.code, done.err) == (0, "")
        assert shown in done.out
        written = [(tmp_path / f"r.{kind}").read_bytes().decode() for kind in ("csv", "md", "html")]
        for text in (done.out, *written):
            assert "\x1b" not in text
            assert "\x07" not in text
            assert "4711" not in text
            assert "root:" not in text
        assert all(r"maml\x1b" in text.replace("\\\\", "\\") for text in written)
