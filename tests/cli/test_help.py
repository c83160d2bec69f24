"""`--help` says what each key means."""

import re
from pathlib import Path

import pytest
from command_line import succeed

from fewshot.cli.compose import conf_dir
from fewshot.cli.help import _paths, annotated, meanings


def test_every_key_that_one_sets_has_its_meaning(tmp_path: Path) -> None:
    """All but what only passes another key on (`${ways}`), and the classes behind the keys."""
    text = succeed("train", "--help", "algorithm=anil", "trainer/optimizer=sgd", cwd=tmp_path).out
    keys = text.split("Keys (", 1)[1].split("\n", 1)[1]
    bare = [line for line in keys.split("\n") if re.match(r" *[a-z]\w*: *[^ #$]", line) and " # " not in line]
    assert bare == []
    assert re.search(r"^ways: 5 +# classes of a test episode, a number or ", keys, re.MULTILINE)
    assert re.search(r"^  adapt: head +# only the head moves in the inner loop$", keys, re.MULTILINE)  # anil's own
    assert re.search(r"^  inner_lr: 0.2 +# step size of the inner loop$", keys, re.MULTILINE)  # maml's
    assert re.search(r"^    momentum: 0.9 +# of the gradient$", keys, re.MULTILINE)


@pytest.mark.parametrize("group", ["algorithm", "augment", "backbone", "dataset", "trainer"])
def test_every_file_of_a_group_says_what_its_keys_mean(group: str) -> None:
    """Itself or the file that it is made from; but for what passes another key on."""
    for file in sorted((conf_dir() / group).glob("*.yaml")):
        found = meanings("config", {group: file.stem}, [conf_dir()])
        lines = file.read_text().split("\n")
        keys = [f"{group}.{place}" for number, place in _paths(lines) if re.search(r": *[^ #$]", lines[number])]
        bare = [key for key in keys if not re.search(r"\._|\.defaults$", key) and key not in found]
        assert bare == [], file


def test_a_users_file_says_what_its_keys_mean(tmp_path: Path) -> None:
    (tmp_path / "algorithm").mkdir()
    (tmp_path / "algorithm" / "mine.yaml").write_text("a: 1  # first\nb:\n  c: 2 # second\n")
    found = meanings("config", {"algorithm": "mine"}, [tmp_path])
    assert found == {"algorithm.a": "first", "algorithm.b.c": "second"}
    said = annotated("algorithm:\n  a: 1\nx: " + "y" * 56, {"algorithm.a": "one two three four five", "x": "z"}, 60)
    assert said.split("\n") == [
        "algorithm:", f"{'  a: 1':<36}# one two three four", f"{'':<36}# five", "x: " + "y" * 56, f"{'':<36}# z",
    ]  # fmt: skip
    assert annotated("algorithm:\n  b:\n    c: 2", found).split("\n")[-1].split() == ["c:", "2", "#", "second"]
