"""`fewshot check`: says so when all is well, and finds the layers of a user's network that vmap gets wrong."""

import re
from pathlib import Path

import pytest
from command_line import call, succeed

from fewshot.cli import check

NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, *, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2)
        self.middle = {
            "batch": nn.BatchNorm2d(4, track_running_stats=False),
            "tracking": nn.BatchNorm2d(4),
            "both": nn.Sequential(nn.BatchNorm2d(4), nn.LayerNorm([4, 13, 13])),
            "layer": nn.LayerNorm([4, 13, 13]),
            "group": nn.GroupNorm(2, 4),
        }[norm]
        self.last = nn.Conv2d(4, 6, 3, stride=2)
        self.out_features = 6

    def forward(self, x):
        return self.last(torch.tanh(self.middle(self.conv(x)))).mean((2, 3))
"""


def test_what_a_training_would_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "check_gradient", lambda *_: True)
    for words, said in (
        (["train_ways={low: 2, high: 3}"], "give train_ways as a number, not 2 to 3: ways=2, but this head was"),
        (["shots=19", "train_shots=1"], "classes of split 'val' of 'glyphs' have fewer than shots+queries=24 images"),
        (["trainer.rate_factors={nothing: 2}"], "trainer.rate_factors: 'nothing' is no trainable part of the model"),
    ):
        done = call("check", "threads=1", *words, cwd=tmp_path)
        assert (done.code, done.err) == (1, "")
        assert said in done.out.splitlines()[-1] and done.out.splitlines()[-1].startswith("contract  FAILED: ")


def test_default_is_in_order(tmp_path: Path) -> None:
    done = call("check", "threads=1", "backbone.blocks=2", "backbone.filters=8", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    first = [line.split(maxsplit=1) for line in done.out.splitlines()]
    assert [word for word, _ in first[:5]] == ["machine", "packages", "allocator", "data", "gradient"]
    assert [line[:17] for line in done.out.splitlines()[5:]] == ["contract  ok     "] * 16
    assert re.match(r"glyphs: \d+ classes \(train \d+, val \d+, test \d+", first[3][1])
    assert re.match(r"ok: largest difference of a parameter, second order, 3 tasks", first[4][1])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("norm", "code", "said"),
    [
        ("group", 0, "gradient  ok: "),
        ("batch", 1, "layer 'middle' (torch.nn.modules.batchnorm.BatchNorm2d) is at fault: "),
        ("layer", 1, "layer 'middle' (torch.nn.modules.normalization.LayerNorm) is at fault: "),
        ("tracking", 1, "layer 'middle' (BatchNorm2d) of torch.nn: running statistics cannot be kept per task"),
        ("both", 1, "layer 'middle.0' (BatchNorm2d) of torch.nn: running statistics cannot be kept per task"),
        ("both", 1, "layer 'middle.0' (torch.nn.modules.batchnorm.BatchNorm2d) is at fault: "),
        ("both", 1, "layer 'middle.1' (torch.nn.modules.normalization.LayerNorm) is at fault: "),
    ],
)
@pytest.mark.parametrize("algorithm", ["maml", "protonet"])
def test_a_users_network(
    tmp_path: Path, norm: str, code: int, said: str, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "check_contract", lambda *_: True)  # see below
    (tmp_path / "network.py").write_text(NETWORK)
    (tmp_path / "mine" / "backbone").mkdir(parents=True)
    (tmp_path / "mine" / "backbone" / "net.yaml").write_text(f"_target_: network.Net\nnorm: {norm}\n")
    words = ["--config-dir", "mine", "backbone=net", f"algorithm={algorithm}", "threads=1"]
    words += ["algorithm.adapt_norm=true"] if algorithm == "maml" else []
    done = call("check", *words, cwd=tmp_path)
    assert done.err == ""
    assert said in done.out
    assert done.code == code
    if code:
        assert "fewshot.ops.norm" in done.out.splitlines()[-1]


@pytest.mark.slow
def test_a_sweep_of_checks_stays_in_one_process(tmp_path: Path) -> None:
    """A check leaves no run folder, which is where the local launcher would look for its result."""
    done = succeed("check", "-m", "threads=1", "backbone=mlp", "algorithm.inner_steps=1,2", cwd=tmp_path)
    assert done.out.count("gradient  ok") == 2


FAULTY = """
from fewshot.algorithms.protonet import ProtoNet


class Leaky(ProtoNet):
    def predict(self, state, query_x):
        logits = super().predict(state, query_x)
        return logits - logits.mean(1, keepdim=True)
"""


def test_a_users_algorithm_that_breaks_its_promise(tmp_path: Path) -> None:
    (tmp_path / "leaky.py").write_text(FAULTY)
    words = ("algorithm=protonet", "algorithm._target_=leaky.Leaky", "backbone=mlp", "threads=1")
    done = call("check", *words, cwd=tmp_path)
    assert (done.code, done.err) == (1, "")
    failed = [line for line in done.out.splitlines() if "FAILED" in line]
    assert len(failed) == 1
    assert failed[0].startswith(
        "contract  FAILED transductive: transductive=False, but the prediction for a query depends on the other queries"
    )
