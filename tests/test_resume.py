"""Which folder a run writes in."""

import re
from pathlib import Path
from typing import Any

import pytest

from fewshot.errors import InputError
from fewshot.held_run import FolderInUse
from fewshot.identity import identity
from fewshot.resume import as_yaml, check_writable, open_fixed, open_resumed
from fewshot.run_folder import RunFolder

NAMES = {"algorithm": "maml"}
CONFIG = {"ways": 5, "rate": 1e-5, "name": "größe: a, b", "off": "off", "list": [1, None], "resume": "auto"}


def test_config_yaml_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = open_resumed(tmp_path, CONFIG, NAMES)
    assert folder.config == CONFIG
    assert folder.about["names"] == NAMES
    assert folder.about["identity"] == identity(CONFIG)
    assert "größe" in as_yaml(CONFIG)


def test_an_unfinished_run_of_the_same_identity_is_gone_on_with(tmp_path: Path) -> None:
    first = open_resumed(tmp_path, CONFIG, NAMES)
    assert open_resumed(tmp_path, CONFIG, NAMES).path != first.path  # the first is in use
    first.close()
    again = open_resumed(tmp_path, CONFIG | {"name": "outside the identity"}, NAMES)
    assert again.path == first.path
    again.close()
    assert open_resumed(tmp_path, CONFIG | {"ways": 6}, NAMES).path != first.path
    assert open_resumed(tmp_path, CONFIG | {"resume": "false"}, NAMES).path != first.path
    first.write_result({"a": 1})
    assert open_resumed(tmp_path, CONFIG, NAMES).path != first.path
    with pytest.raises(InputError, match=re.escape(f"{first.path} is finished; trainer.steps=MORE trains it longer, ")):
        open_resumed(tmp_path, CONFIG | {"resume": str(first.path)}, NAMES)


def training(steps: int, schedule: str = "decay", **keys: Any) -> dict[str, Any]:
    own = {"decay": {"every": 9, "gamma": 0.5}, "cosine": {"steps": steps, "warmup": 0, "final": 0.0}}[schedule]
    trainer = {"steps": steps, "schedule": {"_target_": f"fewshot.schedules.{schedule}", **own}}
    return {**CONFIG, "trainer": trainer, **keys}


def test_a_finished_run_is_trained_longer_in_a_folder_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended = open_resumed(tmp_path, training(20), NAMES)
    (ended.checkpoints / "20").mkdir()
    (ended.checkpoints / "20" / "state").write_text("weights")
    ended.metrics.append({"step": 20, "train/loss": 1.0})
    ended.keep_classes({"train": ["a"]})
    ended.write_result({"a": 1})
    ended.close()
    longer = open_resumed(tmp_path, training(50, resume=str(ended.path)), NAMES)
    assert longer.path != ended.path and RunFolder(ended.path).finished and not longer.finished
    assert (longer.checkpoints / "20" / "state").read_text() == "weights"
    assert [row["step"] for row in longer.metrics.read()] == [20]
    assert longer.classes == {"train": ["a"]}
    assert f"{ended.path} goes on in {longer.path}: trainer.steps 20 -> 50" in caplog.text
    longer.close()
    again = open_resumed(tmp_path, training(50, resume=str(ended.path)), NAMES)  # the same command, after a kill
    assert again.path == longer.path
    again.close()
    for config in (training(10), training(50, ways=6)):
        with pytest.raises(InputError, match="was run with another configuration"):
            open_resumed(tmp_path, config | {"resume": str(ended.path)}, NAMES)


def test_a_schedule_that_ends_with_its_steps_does_not_allow_it(tmp_path: Path) -> None:
    ended = open_resumed(tmp_path, training(20, "cosine"), NAMES)
    ended.write_result({"a": 1})
    ended.close()
    said = r"a schedule of 20 steps; one of 50 has other rates from step 1 on: .*; init=.* starts from its weights"
    with pytest.raises(InputError, match=said):
        open_resumed(tmp_path, training(50, "cosine", resume=str(ended.path)), NAMES)


def test_true_names_what_differs(tmp_path: Path) -> None:
    asked = CONFIG | {"resume": "true"}
    with pytest.raises(InputError, match="resume=true, but no unfinished run of this configuration is in "):
        open_resumed(tmp_path, asked, NAMES)
    other = open_resumed(tmp_path, CONFIG | {"ways": 7}, NAMES)
    with pytest.raises(InputError, match=r"differs in: ways: 7 -> 5; use resume=auto for a new run"):
        open_resumed(tmp_path, asked, NAMES)
    same = open_resumed(tmp_path, CONFIG, NAMES)
    with pytest.raises(InputError, match="nothing: it is in use by another process"):
        open_resumed(tmp_path, asked, NAMES)
    same.close()
    other.close()


def test_a_fixed_place(tmp_path: Path) -> None:
    path = tmp_path / "job"
    first = open_fixed(path, CONFIG, "abc", NAMES)
    assert RunFolder(path).in_use
    with pytest.raises(FolderInUse, match="is in use by a running process"):
        open_fixed(path, CONFIG, "abc", NAMES)
    first.close()
    assert not RunFolder(path).in_use
    assert open_fixed(path, CONFIG, "abc", NAMES).path == path
    with pytest.raises(InputError, match="resume=false in a sweep, whose jobs go on by themselves"):
        open_fixed(path, CONFIG | {"resume": "false"}, "abc", NAMES)
    assert not RunFolder(tmp_path / "nowhere").in_use


def test_an_edited_config_is_not_gone_on_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whether it is found by its identity, named, or a sweep's job; nor by the command that fits the edited one."""
    folder = open_resumed(tmp_path, CONFIG, NAMES)
    folder.close()
    file, edited = folder.path / "config.yaml", CONFIG | {"rate": 0.5}
    file.write_text(as_yaml(edited))
    said = re.escape(
        f"{file} was edited since the run began (rate: 0.5 -> 1e-05); put it back; resume=false starts a new"
    )
    for resume in ("auto", "true", str(folder.path)):
        with pytest.raises(InputError, match=said):
            open_resumed(tmp_path, CONFIG | {"resume": resume}, NAMES)
        assert not RunFolder(folder.path).in_use
    with pytest.raises(InputError, match=said):
        open_fixed(folder.path, CONFIG, identity(CONFIG), NAMES)
    with pytest.raises(InputError, match=r"was begun with another configuration, its config\.yaml was edited"):
        open_resumed(tmp_path, edited | {"resume": str(folder.path)}, NAMES)
    file.write_text("ways: [")
    with pytest.raises(InputError, match=r"config.yaml is damaged: it is no YAML.*; resume=false starts a new run"):
        open_resumed(tmp_path, CONFIG, NAMES)
    file.write_text(as_yaml(CONFIG))
    about = (folder.path / "run.json").read_text()
    (folder.path / "run.json").write_text(re.sub(r'"code": "[^"]*"', '"code": "0.0.1 abc"', about))
    open_resumed(tmp_path, CONFIG, NAMES).close()
    assert "it was begun with fewshot 0.0.1 abc, and goes on with " in caplog.text


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write in .*file: File exists; choose another output_dir"):
        check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
