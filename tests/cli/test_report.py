"""`fewshot report`: a row for every run, finished or not."""

import csv
import json
import shutil
from pathlib import Path

from command_line import call, refusal, result, start


def test_table_and_csv(tmp_path: Path, trained: Path) -> None:
    runs = tmp_path / "outputs" / "train" / "maml"
    shutil.copytree(trained, runs / "1")
    shutil.copytree(trained, runs / "2")
    (runs / "2" / "result.json").unlink()
    published = result(trained) | {"paper": {"accuracy": 98.7, "ci95": 0.4, "source": "x", "verdict": "below"}}
    shutil.copytree(trained, runs / "3")
    (runs / "3" / "result.json").write_text(json.dumps(published))

    done = start("report", "outputs", "--csv", "tables/runs.csv", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    _, *rows, last = done.out.splitlines()
    test = result(trained)["test"]
    assert f"{test['accuracy']:.2f} ± {test['accuracy_ci95']:.2f}" in rows[0]
    assert "unfinished" in rows[1]
    assert rows[2].endswith("98.7 below")
    assert last == "3 runs in tables/runs.csv"

    with (tmp_path / "tables" / "runs.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["status"] for row in table] == ["finished", "unfinished", "finished"]
    assert float(table[0]["accuracy"]) == test["accuracy"]
    assert table[1]["steps"] == "4"
    assert (table[2]["paper"], table[2]["verdict"]) == ("98.7", "below")
    assert call("report", str(runs / "1"), cwd=tmp_path).out.count("glyphs test") == 1


def test_refused(tmp_path: Path, trained: Path) -> None:
    assert refusal("report", cwd=tmp_path).endswith("are required: paths; see fewshot report --help")
    assert refusal("report", "nowhere", cwd=tmp_path).startswith("nowhere does not exist; give run folders")
    assert refusal("report", ".", cwd=tmp_path) == "no runs below .; fewshot train makes one"
    said = refusal("report", str(trained), "--csv", "/dev/null/x.csv", cwd=tmp_path)
    assert said.startswith("cannot write /dev/null/x.csv: ")
