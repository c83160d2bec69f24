"""The Tab key in bash, with the function that `fewshot -sc install=bash` defines."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import SCRIPT, call

ALGORITHMS = Path(__file__).parents[2] / "conf" / "algorithm"
SHELL = """
eval "$(fewshot -sc install=bash)"
while IFS= read -r COMP_LINE; do
    COMP_POINT=${#COMP_LINE}
    read -ra COMP_WORDS <<< "$COMP_LINE"
    if [[ "$COMP_LINE" == *" " ]]; then COMP_WORDS+=(""); fi
    COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
    COMPREPLY=()
    hydra_bash_completion
    echo "${COMPREPLY[*]}"
done
"""


OFFERED = {
    "fewshot ": "train evaluate predict export report data check",
    "fewshot tr": "train",
    "fewshot train algorithm=": " ".join(f"algorithm={file.stem}" for file in sorted(ALGORITHMS.glob("*.yaml"))),
    "fewshot train algorithm=proton": "algorithm=protonet",
    "fewshot train -m ways=5 trainer.st": "trainer.steps=",
    "fewshot check train_s": "train_shots= train_split=",
    "fewshot data ": "list prepare verify show",
    "fewshot data show om": "omniglot",
    "fewshot evaluate ": "run=",
    "fewshot evaluate run=out": "run=outputs/",
    "fewshot evaluate run=outputs/train/maml/": "run=outputs/train/maml/1/",
    "fewshot evaluate run=outputs/train/maml/1 algorithm.i": "algorithm.inner_lr=",
    "fewshot train experiment=maml/omniglot_5w5s_": "experiment=maml/omniglot_5w5s_fast",
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a run in it."""
    run = tmp_path / "outputs" / "train" / "maml" / "1"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(
        "ways: 5\nshots: 1\nqueries: 5\nseed: 0\nlogger: {}\nresume: auto\n"
        "algorithm: {_target_: fewshot.algorithms.maml.MAML, inner_lr: 0.4}\n"
        "backbone: {_target_: fewshot.backbones.mlp.MLP}\n"
        "dataset: {_target_: fewshot.datasets.glyphs.Glyphs, size: 28}\n"
    )
    return tmp_path


@pytest.mark.parametrize("line", OFFERED)
def test_what_is_offered(here: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that follows; bash drops what does not begin as typed."""
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    typed = line.rpartition(" ")[2]
    offered = [word for word in call("-sc", "query=bash", cwd=here).out.split() if word.startswith(typed)]
    assert " ".join(offered) == OFFERED[line]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash(here: Path) -> None:
    lines = ("fewshot tr", "fewshot train algorithm=proton", "fewshot evaluate run=out")
    path = f"{SCRIPT.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", SHELL], input="".join(f"{line}\n" for line in lines), cwd=here,
        env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines() == [OFFERED[line] for line in lines]
