"""A run's weights, used again: without its data."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from fewshot import checkpoint
from fewshot.assemble import make_algorithm
from fewshot.backbones.normalized import Normalized
from fewshot.errors import FewshotError, InputError
from fewshot.run_folder import RunFolder
from fewshot.trained import _load_backbone, chosen_names, restore


def test_restored_without_its_data(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewshot.datasets.glyphs.Glyphs.load", lambda self: pytest.fail("the data set was loaded"))
    model = restore(trained)
    step, state = checkpoint.load(trained / "checkpoints", "best")
    assert (model.which, model.step, model.context) == ("best", step, state["context"])
    ours = model.algorithm.state_dict()
    assert ours.keys() == state["model"].keys()
    assert all(torch.equal(ours[key], state["model"][key]) for key in ours)
    assert not model.algorithm.training
    assert (restore(trained, 2).step, restore(RunFolder(trained), "last").which) == (2, "last")


def test_what_may_differ_at_test(trained: Path) -> None:
    config = RunFolder(trained).config
    config["algorithm"]["eval_inner_steps"] = 9
    assert restore(trained, config=config).algorithm.eval_inner_steps == 9
    config["backbone"]["filters"] = 3
    with pytest.raises(FewshotError, match="the checkpoint does not fit this MAML: other shape: "):
        restore(trained, config=config)


def test_no_such_checkpoint(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape("choose best, last or one of [2, 4]")):
        restore(trained, "77")
    with pytest.raises(InputError, match=r"is not a run folder: it has no config\.yaml"):
        restore(tmp_path)


def test_names_are_those_of_the_files_that_were_chosen() -> None:
    config = {group: {"_target_": f"mine.{group}.Net"} for group in ("dataset", "backbone", "algorithm")}
    assert chosen_names(config, {"algorithm": "fomaml", "backbone": None}) == {
        "dataset": "net", "backbone": "net", "algorithm": "fomaml",
    }  # fmt: skip


def test_what_an_algorithm_is_told_is_kept(trained: Path) -> None:
    """The checkpoint's context makes the same algorithm again."""
    model = restore(trained)
    again = make_algorithm(model.config, model.context, model.config["seed"])
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.algorithm.state_dict().items()
    }


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("theirs", [False, True])
def test_a_backbone_alone_whatever_normalises_it(ours: bool, theirs: bool) -> None:
    def backbone(wrapped: bool) -> nn.Module:
        net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
        return Normalized(net, [0.5], [0.2]) if wrapped else net

    source, target = backbone(theirs), backbone(ours)
    stored = {f"backbone.{key}": value for key, value in source.state_dict().items()} | {"head.weight": torch.ones(2)}
    _load_backbone(target, stored)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    with pytest.raises(FewshotError, match="the checkpoint does not fit this Linear: missing: weight, bias"):
        _load_backbone(nn.Linear(3, 2), stored)
