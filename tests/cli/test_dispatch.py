"""The first word: verbs, help, and what is imported for them."""

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import call, refusal, start

from fewshot import __version__
from fewshot.cli import VERBS
from fewshot.cli.errors import guarded


def modules_after(words: list[str], cwd: Path) -> tuple[int, set[str]]:
    """Exit code of a command, and what it has imported."""
    code = (
        "import sys; from fewshot.cli import main\n"
        f"try: main({words})\n"
        "except SystemExit as error: print(*sys.modules); sys.exit(error.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    return done.returncode, set(done.stdout.splitlines()[-1].split())


def test_help_names_every_verb_and_imports_nothing_of_weight(tmp_path: Path) -> None:
    done = start("--help", cwd=tmp_path)
    assert done.code == 0
    assert done.err == ""
    for verb in VERBS:
        assert f"\n  {verb} " in done.out
        assert f"fewshot {verb}" in done.out or verb in ("check", "data")
    code, modules = modules_after(["--help"], tmp_path)
    assert code == 0
    assert not modules & {"torch", "numpy", "hydra", "omegaconf", "rich", "matplotlib", "wandb"}


def test_a_wrong_override_does_not_wait_for_torch(tmp_path: Path) -> None:
    code, modules = modules_after(["train", "algorithm.inner_lr=fast"], tmp_path)
    assert code == 2
    assert "hydra" in modules
    assert not modules & {"torch", "numpy", "matplotlib", "wandb"}


@pytest.mark.parametrize("words", [(), ("-h",), ("help",)])
def test_no_verb_means_help(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = call(*words, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "Verbs:" in done.out


def test_version(tmp_path: Path) -> None:
    assert call("--version", cwd=tmp_path).out == f"fewshot {__version__}\n"


def test_unknown_verb(tmp_path: Path) -> None:
    assert refusal("tarin", cwd=tmp_path) == "'tarin' is not a verb of fewshot; did you mean 'train'?"
    assert refusal("x=1", cwd=tmp_path).endswith("verbs are: train, evaluate, report, data, check")


@pytest.mark.parametrize("verb", ["train", "evaluate", "check"])
def test_help_of_a_verb_lists_groups_and_keys(tmp_path: Path, verb: str) -> None:
    done = call(verb, "--help", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "\nalgorithm: anil, boil, fomaml, maml" in done.out
    assert ("run: ???" if verb == "evaluate" else "train_shots: ${shots}") in done.out
    assert "hydra.cc" not in done.out


@pytest.mark.parametrize("verb", ["report", "data"])
def test_help_of_a_verb_that_takes_words(tmp_path: Path, verb: str) -> None:
    done = call(verb, "--help", cwd=tmp_path)
    assert done.code == 0
    assert done.out.startswith(f"usage: fewshot {verb} ")


def test_debug_shows_the_trace_and_keeps_the_code(tmp_path: Path) -> None:
    done = call("train", "--debug", "+foo=1", cwd=tmp_path)
    assert done.code == 2
    assert done.err.startswith("Traceback")
    assert done.err.splitlines()[-1].startswith("error: 'foo' is not a key")


def test_ctrl_c_is_one_word(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert guarded(interrupted, debug=False) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_a_bug_keeps_its_trace() -> None:
    def broken() -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        guarded(broken, debug=False)


def test_the_reader_of_a_pipe_may_go(tmp_path: Path) -> None:
    command = f"{sys.executable} -m fewshot train --cfg job | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("ways: 5\n", "")
