"""The first word: verbs, help, and what is imported for them."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import SCRIPT, call, refusal, start, succeed

from fewshot import __version__
from fewshot.cli import VERBS
from fewshot.cli.errors import guarded
from fewshot.errors import InputError


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
    assert refusal("x=1", cwd=tmp_path).endswith("verbs are: train, evaluate, predict, export, report, data, check")


@pytest.mark.parametrize("verb", ["evaluate", "check"])  # of train: test_help.py
def test_help_of_a_verb_lists_groups_and_keys(tmp_path: Path, verb: str) -> None:
    done = call(verb, "--help", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    (algorithms,) = (line for line in done.out.splitlines() if line.startswith("algorithm: "))
    assert {"anil", "boil", "fomaml", "maml"} <= set(algorithms.removeprefix("algorithm: ").split(", "))
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


def test_an_error_is_broken_between_words_in_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> int:
        raise InputError("there is no 'algorithm/mamll'; did you mean maml")

    monkeypatch.setenv("COLUMNS", "30")
    for terminal, said in (
        (False, "error: there is no 'algorithm/mamll'; did you mean maml\n"),
        (True, "error: there is no\n'algorithm/mamll'; did you\nmean maml\n"),
    ):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        assert guarded(refused, debug=False) == 2
        assert capsys.readouterr().err == said


def test_a_bug_keeps_its_trace() -> None:
    def broken() -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        guarded(broken, debug=False)


def test_what_the_system_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever file it is, and wherever it is opened: no trace."""

    def refused(number: int) -> Callable[[], int]:
        def run() -> int:
            raise OSError(number, os.strerror(number), "a.json")

        return run

    for run, code, said in (
        (lambda: len((tmp_path / ("x" * 300)).read_text()), 2, "File name too long; name another file or folder"),
        (lambda: len(tmp_path.read_text()), 2, "Is a directory; name another file or folder"),
        (refused(errno.ENOSPC), 1, "a.json: No space left on device; make room there, and the same command goes on"),
        (
            refused(errno.EMFILE),
            1,
            "a.json: Too many open files; allow more (`ulimit -n`), and the same",
        ),
    ):
        assert guarded(run, debug=False) == code
        assert said in capsys.readouterr().err


def test_without_a_place_to_print_to_or_to_be(tmp_path: Path) -> None:
    command = f"{SCRIPT} --version >&- && mkdir gone && cd gone && rmdir ../gone && {SCRIPT} report x 2>&1; echo $?"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "error: the working directory cannot be read (No such file or directory); cd to another\n2\n"
    assert done.stderr == ""


def test_the_reader_of_a_pipe_may_go(tmp_path: Path) -> None:
    command = f"{sys.executable} -m fewshot train --cfg job | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("ways: 5\n", "")


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    command = f"{sys.executable} -m fewshot {{}} >/dev/full; echo $?"
    for words in ("--help", "--version", "train --cfg job", "data list"):
        done = subprocess.run(["bash", "-c", command.format(words)], cwd=tmp_path, capture_output=True, text=True)
        assert done.stderr == "error: cannot write to standard output: No space left on device\n", words
    command = f"{sys.executable} -m fewshot train --info | head -3"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (len(done.stdout.splitlines()), done.stderr) == (3, "")


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE=abc is not a number of processes; unset it, or start by torchrun"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 is not a number of processes"),
        ({"WORLD_SIZE": "²"}, "WORLD_SIZE=² is not a number of processes"),
        (
            {
                "WORLD_SIZE": "2",
                "RANK": "0",
                "LOCAL_RANK": "0",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "here",
                "MASTER_PORT": "a",
            },
            "MASTER_PORT=a is no number; start several processes by torchrun",
        ),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 without RANK, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT;"),
    ],
)
def test_several_processes_without_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], says: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert says in refusal("train", cwd=tmp_path)


def test_a_key_with_dashes_is_named_without_them(tmp_path: Path) -> None:
    said = refusal("train", "--trainer.optimizer.lr=0.01", cwd=tmp_path)
    assert said == "--trainer.optimizer.lr=0.01: write it without the dashes, trainer.optimizer.lr=0.01"
    assert "keys are set as KEY=VALUE" in refusal("train", "--algorithm", "maml", cwd=tmp_path)


def test_a_users_own_file_wins_over_ours_of_the_same_name(tmp_path: Path) -> None:
    own = tmp_path / "conf" / "backbone" / "conv4.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("_target_: mine.Net\nwidth: 3\n")
    said = succeed("train", "--config-dir", "./conf", "backbone=conv4", "--cfg", "job", cwd=tmp_path).out
    assert "backbone:\n  _target_: mine.Net\n  width: 3\n" in said
    assert "mine.Net" not in succeed("train", "backbone=conv4", "--cfg", "job", cwd=tmp_path).out
    assert "is not a folder" in refusal("train", "--config-dir", "nowhere", cwd=tmp_path)


def test_a_tilde_is_the_home_folder_wherever_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for word in ("output_dir=~/out", "output_dir='~/out'"):
        assert f"output_dir: {tmp_path}/me/out\n" in succeed("train", word, "--cfg", "job", cwd=tmp_path).out


def test_files_in_the_working_directory_stand_in_for_no_library(tmp_path: Path) -> None:
    for name in ("random", "statistics", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this ran')")
    for words in (["train", "--cfg", "job"], ["report", "."]):
        done = subprocess.run([sys.executable, "-m", "fewshot", *words], cwd=tmp_path, capture_output=True, text=True)
        assert "this ran" not in done.stdout + done.stderr, words
