"""`fewshot report`: what runs reached, in the terminal, as CSV, Markdown and HTML."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from command_line import QUIET, call, refusal, result, succeed
from omegaconf import OmegaConf


def copied(trained: Path, to: Path, *, seed: int = 0, **changes: object) -> Path:
    """The trained run once more, as if it had been run with another seed, and with other results."""
    shutil.copytree(trained, to)
    config = OmegaConf.load(to / "config.yaml")
    config.seed = seed
    OmegaConf.save(config, to / "config.yaml")
    (to / "result.json").write_text(json.dumps(result(trained) | {"seed": seed} | changes))
    return to


def test_table_and_csv(tmp_path: Path, trained: Path) -> None:
    runs = tmp_path / "outputs" / "train" / "maml"
    copied(trained, runs / "1")
    (copied(trained, runs / "2", seed=1) / "result.json").unlink()
    published = {"accuracy": 98.7, "ci95": 0.4, "source": "x", "tolerance": 0.3, "verdict": "below"}
    copied(trained, runs / "3", seed=2, split="val", paper=published)

    done = succeed("report", "outputs", "--csv", "tables/runs.csv", cwd=tmp_path)
    assert done.err == ""
    head, first, second, *rest = done.out.splitlines()
    test = result(trained)["test"]
    assert f"{test['accuracy']:.2f} ± {test['accuracy_ci95']:.2f}" in first
    assert head.split()[:3] == ["algorithm", "accuracy", "%"]
    assert "98.7 ± 0.4: below" in second
    assert [line.split()[1:] for line in rest if "unfinished, " in line] == [["unfinished,", "step", "4", "of", "4"]]
    assert any(line.startswith("In all rows: ") and "ways 5" in line for line in rest)
    assert "2 runs finished, 1 unfinished" in rest
    assert rest[-1].startswith("tables/runs.csv: ")

    with (tmp_path / "tables" / "runs.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["status"] for row in table] == ["finished", "unfinished", "finished"]
    assert float(table[0]["accuracy"]) == test["accuracy"]
    assert (table[1]["steps"], table[1]["seed"]) == ("4", "1")
    assert (table[2]["paper"], table[2]["verdict"]) == ("98.7", "below")
    assert call("report", str(runs / "1"), cwd=tmp_path).out.count("In all rows") == 1


@pytest.mark.slow
def test_a_real_sweep(tmp_path: Path) -> None:
    """Two algorithms and two seeds, from the command line to one page, moved in between."""
    small = [word for word in QUIET if not word.startswith("algorithm.")]
    succeed("train", "-m", *small, "algorithm.stream.tasks=2", "algorithm=maml,protonet", "seed=0,1", cwd=tmp_path)
    (tmp_path / "outputs").rename(tmp_path / "moved to")
    words = ("report", "moved to", "--html", "pages/r.html", "--markdown", "pages/r.md")
    out = succeed(*words, cwd=tmp_path).out
    html, markdown = ((tmp_path / "pages" / f"r.{kind}").read_text() for kind in ("html", "md"))
    results = [result(file.parent) for file in (tmp_path / "moved to").rglob("result.json")]
    assert len(results) == 4
    for algorithm in ("maml", "protonet"):
        mean = sum(r["test"]["accuracy"] for r in results if r["algorithm"] == algorithm) / 2
        for text in (out, html, markdown):
            assert f"{mean:.2f} ± " in text
    for r in results:
        assert f">{r['test']['accuracy']:.2f} ± {r['test']['accuracy_ci95']:.2f}<" in html
    assert "Inner steps" in html


def test_two_runs_are_compared_in_pairs(tmp_path: Path, trained: Path) -> None:
    copied(trained, tmp_path / "a")
    copied(trained, tmp_path / "b", seed=1)
    out = succeed("report", "a", "b", cwd=tmp_path).out
    assert out.endswith("a minus b: +0.00 ± 0.00 points over the same 20 episodes: no difference can be told\n")
    assert succeed("report", "b", "a", "--paired", cwd=tmp_path).out.splitlines()[-1].startswith("b minus a: ")
    copied(trained, tmp_path / "c", seed=2, ways=20)
    assert "(ways 5 and 20)" in refusal("report", "a", "c", "--paired", cwd=tmp_path)
    said = refusal("report", "a", "b", "c", "--paired", cwd=tmp_path)
    assert said == "--paired needs two finished runs; there are 3; give two folders"


@pytest.mark.parametrize("option", ["--csv", "--html", "--markdown"])
def test_nowhere_to_write(tmp_path: Path, trained: Path, option: str) -> None:
    said = refusal("report", str(trained), option, "/dev/null/x", cwd=tmp_path)
    assert said.startswith("cannot write /dev/null/x: ")


def test_refused(tmp_path: Path) -> None:
    assert refusal("report", cwd=tmp_path).endswith("are required: paths; see fewshot report --help")
    assert refusal("report", "nowhere", cwd=tmp_path).startswith("nowhere does not exist; give run folders")
    assert refusal("report", ".", cwd=tmp_path) == "no runs below .; fewshot train makes one"
