"""Several checkpoints tested together: the mean of their predictions."""

import shutil
from pathlib import Path

import pytest
import torch
from command_line import QUIET, only, refusal, result, succeed
from toy_data import Identity, clusters

from fewshot.algorithms.r2d2 import R2D2
from fewshot.checkpoint import load
from fewshot.ensemble import Ensemble
from fewshot.episode import Episodes


def r2d2(scale: float) -> R2D2:
    stream = Episodes(tasks=2, ways=4, shots=2, queries=5)
    return R2D2(Identity(6), stream=stream, penalty=0.3, learn_penalty=False, scale=scale)


def test_the_mean_of_probabilities() -> None:
    members = [r2d2(scale) for scale in (1.0, 3.0, 9.0)]
    together = Ensemble(members[0], [member.state_dict() for member in members]).eval()
    x, y, query, _ = (t.float() if t.is_floating_point() else t for t in clusters())
    (state,) = together.adaptation(x, y, ways=4)
    found = together.predict(state, query).exp()
    expected = torch.stack([m.predict(m.adapt(x, y, ways=4), query).softmax(-1) for m in members]).mean(0)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(together.predict(together.adapt(x, y, ways=4), query).exp(), expected)
    assert together.protocol() == members[0].protocol() | {"ensemble": 3}
    assert torch.equal(together.features(state, query), query) and together.backbone is together.best.backbone


def test_a_run_is_tested_with_its_best_checkpoints(tmp_path: Path, trained: Path) -> None:
    words = ("trainer.val_every=1", "trainer.checkpoint_every=4", "evaluation.ensemble=2")
    succeed("train", *QUIET, *words, "trainer.keep_best=3", cwd=tmp_path)
    run = only(tmp_path / "outputs" / "train")
    succeed("evaluate", f"run={run}", "threads=1", cwd=tmp_path)
    again = only(tmp_path / "outputs" / "evaluate")
    assert result(run)["protocol"]["ensemble"] == 2
    assert result(again)["test"] == result(run)["test"] and result(again)["protocol"] == result(run)["protocol"]
    assert result(run)["backbone"] == result(trained)["backbone"]
    said = refusal("evaluate", f"run={run}", "threads=1", "evaluation.ensemble=4", cwd=tmp_path)
    assert said.startswith(f"evaluation.ensemble=4, but the best checkpoints that {run} has kept are 3; lower it, or ")
    said = refusal("evaluate", f"run={run}", "threads=1", "checkpoint=last", cwd=tmp_path)
    assert said == "evaluation.ensemble=2 takes the checkpoints best in validation, not checkpoint=last"
    kept = [int(row["step"]) for row in load(run / "checkpoints")[1]["progress"]["kept"]]
    for step in [step for step in kept if step != 4][:2]:  # lost, as after early stopping: the run ends all the same
        shutil.rmtree(run / "checkpoints" / str(step))
    (run / "result.json").unlink()
    succeed("train", *QUIET, *words, "trainer.keep_best=3", cwd=tmp_path)
    assert "ensemble" not in result(run)["protocol"]


@pytest.mark.parametrize(
    "words", [(), ("trainer.keep_best=3",), ("trainer.keep_best=2", "trainer.test_checkpoint=last")]
)
def test_a_training_that_will_not_have_as_many(tmp_path: Path, words: tuple[str, ...]) -> None:
    members = 3 if "trainer.keep_best=3" in words else 2
    said = refusal("train", *QUIET, f"evaluation.ensemble={members}", *words, cwd=tmp_path)
    assert said.startswith(f"evaluation.ensemble={members} takes the {members} checkpoints best in validation; that ")
    assert not list(tmp_path.rglob("run.json"))
