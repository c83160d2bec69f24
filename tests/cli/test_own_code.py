# ruff: noqa: E501
"""A class of the user's that is at fault costs one line: the class, the method, what it gave, what was expected."""

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot import assemble
from fewshot.cli.compose import compose
from fewshot.cli.errors import guarded
from fewshot.datasets.base import ImageSet
from fewshot.embedded import check_features
from fewshot.errors import InputError
from fewshot.evaluation import evaluate, evaluating
from fewshot.outer_step import OuterStep
from fewshot.sampler import EpisodeSampler
from fewshot.source import pipeline
from fewshot.transforms import Transform

BACKBONE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, image_shape):
        super().__init__()
        self.out_features = 8
        self.layer = nn.Linear(16, 8)

    def forward(self, x):
        return self.layer(x.flatten(1))
"""
ALGORITHM = """
import torch
from fewshot.algorithms.base import Algorithm, embed
from fewshot.episode import StepOutput
from fewshot.ops.similarities import class_means

class Mine(Algorithm):
    def __init__(self, stream, backbone):
        super().__init__()
        self.stream, self.backbone = stream, backbone

    def adapt(self, support_x, support_y, *, ways):
        return class_means(embed(self.backbone, support_x), support_y, ways)

    def predict(self, state, query_x):
        return -torch.cdist(embed(self.backbone, query_x), state)
"""
STEP = "\n    def forward(self, batch):\n        out = super().forward(batch)\n        return "
PREDICT = (
    "\n    def predict(self, state, query_x):\n        logits = -torch.cdist(embed(self.backbone, query_x), state)\n"
    "        return "
)
CASES: dict[str, tuple[str, str, str]] = {
    "predict gives None": ("", PREDICT + "None", "Mine.predict gave logits of shape (NoneType); expected (2, 6, 3), that is tasks, queries, ways"),
    "predict gives a list": ("", PREDICT + "[logits]", "Mine.predict gave logits of shape (list); expected (2, 6, 3)"),
    "predict gives an array": ("", PREDICT + "logits.detach().numpy()", "Mine.predict gave logits of shape (ndarray); expected"),
    "predict gives labels": ("", PREDICT + "logits.argmax(-1)", "Mine.predict gave logits of shape (2, 6); expected (2, 6, 3)"),
    "predict gives whole numbers": ("", PREDICT + "logits.long()", "Mine.predict gave logits of torch.int64; expected floating-point numbers"),
    "predict gives fewer tasks": ("", PREDICT + "logits[:1]", "Mine.predict gave logits of shape (1, 6, 3); expected (2, 6, 3)"),
    "adapt gives None": ("", "\n    def adapt(self, support_x, support_y, *, ways):\n        pass", "Mine.predict (mine.py, line 16: return -torch.cdist(embed(self.backbone, query_x), state)) raised"),
    "forward gives a tuple": ("", STEP + "(out.loss, out.logits)", "Mine.forward gave a tuple; expected a StepOutput(loss, logits)"),
    "forward gives a loss for each task": ("", STEP + "StepOutput(out.loss.expand(2), out.logits)", "Mine.forward gave a loss (2,) torch.float32; expected a scalar tensor with a gradient"),
    "forward gives a number": ("", STEP + "StepOutput(1.0, out.logits)", "Mine.forward gave a loss of type float; expected a scalar tensor"),
    "forward gives a detached loss": ("", STEP + "StepOutput(out.loss.detach(), out.logits)", "Mine.forward gave a loss without a gradient (detached"),
    "no stream": ("", "\n    def __init__(self, stream, backbone):\n        super().__init__()\n        self.backbone = backbone", "algorithm: Mine.stream is a NoneType; expected Episodes or Minibatches"),
    "super().__init__() forgotten": ("", "\n    def __init__(self, stream, backbone):\n        self.stream = stream", "algorithm: mine.Mine.__init__ does not call super().__init__()"),
    "the same, with a module in it": ("", "\n    def __init__(self, stream, backbone):\n        self.backbone = backbone", "Mine.__init__ (mine.py, line 19: self.backbone = backbone) raised AttributeError: cannot assign module before Module.__init__() call"),
    "a tensor in protocol()": ("", "\n    def protocol(self):\n        return {'scale': torch.ones(1)}", "Mine.protocol() gave {'scale': 'Tensor'}; expected texts, numbers, lists and None by name"),
    "protocol() gives a list": ("", "\n    def protocol(self):\n        return [1]", "Mine.protocol() gave list; expected"),
    "get_extra_state": ("", "\n    def get_extra_state(self):\n        return object()\n\n    def set_extra_state(self, state):\n        pass", "Mine.state_dict() cannot be stored: state/_extra_state is a object; a checkpoint stores tensors and plain JSON types"),
    "adaptation gives None": ("", "\n    def adaptation(self, support_x, support_y, *, ways):\n        pass", "Mine.adaptation gave a NoneType; it yields states"),
    "adaptation gives nothing": ("", "\n    def adaptation(self, support_x, support_y, *, ways):\n        yield from ()", "Mine.adaptation gave no state; it yields that after 0, 1, ... inner steps, the last being adapt's"),
    "features without a backbone": ("", "\n    fixed_features = True\n\n    def __init__(self, stream, backbone):\n        super().__init__()\n        self.stream, self.net = stream, backbone", "Mine.fixed_features is true, but it has no `backbone`, the network that embeds images"),
    "features that are not all": ("", "\n    fixed_features = True\n" + PREDICT + "logits * query_x.flatten(2).norm(dim=-1, keepdim=True)", "Mine.fixed_features is true, but its predictions for embeddings are not those for their images; set it to False"),
    "an error of its own": ("", STEP + "self.nothing", "Mine.forward (mine.py, line 20: return self.nothing) raised AttributeError: 'Mine' object has no attribute 'nothing'; --debug shows the trace"),
    "sys.exit": ("", "\n    def forward(self, batch):\n        raise SystemExit(0)", "Mine.forward (mine.py, line 19: raise SystemExit(0)) raised SystemExit: 0"),
    "a backbone that gives a tuple": ("\n    def forward(self, x):\n        return x, x", "", "backbone Net gave (tuple) for images (6, 1, 4, 4); expected (6, 8), one embedding for each"),
    "a backbone that gives maps": ("\n    def forward(self, x):\n        return self.layer(x.flatten(1))[:1]", "", "backbone Net gave (1, 8) for images (6, 1, 4, 4); expected (6, 8)"),
    "a backbone of float64": ("\n    def forward(self, x):\n        return self.double().layer(x.flatten(1))", "", "Net.forward (mine_net.py, line 15: return self.double().layer(x.flatten(1))) raised RuntimeError: "),
    "a backbone without a width": ("\n    def __init__(self, image_shape):\n        super().__init__()", "", "backbone: mine_net.Net has no whole number `out_features`, the width of its embedding"),
    "a function in the place of a class": ("\ndef Net(image_shape):\n    return 3", "", "backbone: mine_net.Net gave a int; expected a torch.nn.modules.module.Module"),
}  # fmt: skip


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_blobs: Callable[..., ImageSet]) -> Any:
    """attempt(more of the backbone, more of the algorithm) -> exit code of making, testing and training it once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    images = make_blobs()

    def job() -> int:
        stream = {"_target_": "fewshot.episode.Episodes", "tasks": 2, "ways": 3, "shots": 1, "queries": 2}
        config = {"backbone": {"_target_": "mine_net.Net"}, "algorithm": {"_target_": "mine.Mine", "stream": stream},
                  "train_ways": 3}  # fmt: skip
        algorithm = assemble.make_algorithm(config, {"image_shape": [1, 4, 4]}, 0)
        assemble.check_storable(algorithm)
        sampler = EpisodeSampler(images, "train", ways=3, shots=1, queries=2, seed=0)
        with evaluating(algorithm):
            check_features(algorithm, sampler, None)
        evaluate(algorithm, sampler, episodes=2, tasks=2, every_step=True)
        optimizer = torch.optim.SGD(algorithm.parameters(), lr=0.1)
        step = OuterStep(algorithm, optimizer, gradient_clip=None, gradient_clip_value=None, device=torch.device("cpu"))
        step(sampler.sample(0, 2), step=0, rate=1.0)
        return 0

    def run(backbone: str, algorithm: str, *, debug: bool = False) -> int:
        (tmp_path / "mine_net.py").write_text(BACKBONE + backbone + "\n")
        (tmp_path / "mine.py").write_text(ALGORITHM + algorithm + "\n")
        for name in ("mine", "mine_net"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return guarded(job, debug=debug)

    yield run
    for name in ("mine", "mine_net"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", CASES)
def test_one_line(attempt: Any, capsys: pytest.CaptureFixture[str], name: str) -> None:
    backbone, algorithm, said = CASES[name]
    assert attempt(backbone, algorithm) == 2
    line, *more = capsys.readouterr().err.splitlines()
    assert line.removeprefix("error: ").startswith(said)
    assert not more


def test_what_is_right_passes_and_debug_has_the_trace(attempt: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert attempt("", "") == 0
    assert attempt("", CASES["an error of its own"][1], debug=True) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


class Turned(Transform):
    """A transform that gives something else than images."""

    def __call__(self, images: torch.Tensor, keys: torch.Tensor) -> Any:
        return images[0]


def test_other_parts_of_the_users(make_blobs: Callable[..., ImageSet]) -> None:
    """What is no transform, optimiser, schedule or logger is refused before training, by what it is or gives."""
    config = compose("config", []).config

    def trainer(**parts: str) -> dict[str, Any]:
        own = {key: {"_target_": target, "_partial_": True} for key, target in parts.items()}
        return {"trainer": config["trainer"] | own}

    for act, said in (
        (
            lambda: pipeline(make_blobs(), [lambda images, keys: images]),
            "a function is in the place of a transform; ex",
        ),
        (
            lambda: pipeline(make_blobs(), [Turned()]),
            "Turned() gave [1, 4, 4] torch.float32 for images [1, 1, 4, 4]; exp",
        ),
        (
            lambda: assemble.make_trainer(trainer(optimizer="builtins.list")),
            "trainer.optimizer gave a list; expected a",
        ),
        (
            lambda: assemble.make_trainer(trainer(schedule="builtins.str")),
            "trainer.schedule gave '0' for step 0; expected",
        ),
        (
            lambda: assemble.make_loggers({"logger": {"mine": {"_target_": "builtins.object"}}}),
            "logger.mine: object has no start(); a logger has",
        ),
    ):
        with pytest.raises(InputError, match="^" + re.escape(said)):
            act()


def test_out_of_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def job() -> int:
        raise MemoryError("cannot allocate 8 GB")

    assert guarded(job, debug=False) == 1
    said = capsys.readouterr().err
    assert said == "error: out of memory (cannot allocate 8 GB); lower evaluation.tasks, or set device=cpu\n"
