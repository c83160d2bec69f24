"""The HTML and Markdown of a report: its numbers are those of the result files, and it needs nothing else."""

import csv
import io
import json
import os
import re
import statistics
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from fewshot.report import documents, page
from fewshot.report.report import Report
from fewshot.report.runs import RunRecord
from fewshot.shown import ShownEpisode

Make = Callable[..., RunRecord]
PAPER = {"accuracy": 40.0, "ci95": 0.5, "source": "Somebody 2020, Table 1", "tolerance": 0.3, "verdict": "above"}


class Reader(HTMLParser):
    """The tables of a page as lists of rows, its links and everything it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.loaded: list[str] = []
        self.text, self._cell = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values["id"]} if "id" in values else set()
        self.links += [values["href"]] if tag == "a" else []
        for name in ("src", "href", "xlink:href", "data"):
            if name in values and tag != "a":
                self.loaded.append(values[name])
        if tag in ("script", "link", "iframe", "object"):
            self.loaded.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self.tables[-1][-1][-1] += data


@pytest.fixture
def sweep(make_run: Make, tmp_path: Path) -> Path:
    """2 algorithms x 2 ways x 2 shots x 2 seeds."""
    for algorithm, paper in (("maml", PAPER), ("protonet", None)):
        for ways in (5, 10):
            for shots in (1, 5):
                for seed in (0, 1):
                    make_run(algorithm=algorithm, ways=ways, shots=shots, seed=seed, paper=paper)
    return tmp_path / "outputs"


def stored(folder: Path, **wanted: object) -> list[dict]:
    results = [json.loads(file.read_text()) for file in sorted(folder.rglob("result.json"))]
    return [r for r in results if all(r[key] == value for key, value in wanted.items())]


def test_its_numbers_are_those_of_the_result_files_and_it_needs_nothing_else(sweep: Path) -> None:
    reader = Reader(text := page.html(Report([sweep])))
    pivot = reader.tables[0]
    assert pivot[0] == ["algorithm", *[f"{ways}-way {shots}-shot" for ways in (5, 10) for shots in (1, 5)]]
    ((head, *rows),) = [table for table in reader.tables if "sd of seeds" in table[0]]
    (_, *each) = next(table for table in reader.tables if "folder" in table[0])
    assert head[:4] == ["algorithm", "accuracy %", "ways", "shots"]
    assert "In all rows: data toys test, network net 28x28, seeds 0, 1, raw pixels 31.25" in reader.text
    assert len(rows) == 8
    for cells in rows:
        row = dict(zip(head, cells, strict=True))
        runs = stored(sweep, algorithm=row["algorithm"], ways=int(row["ways"]), shots=int(row["shots"]))
        accuracies = [r["test"]["accuracy"] for r in runs]
        assert len(runs) == 2
        task = pivot[0].index(f"{row['ways']}-way {row['shots']}-shot")
        assert row["accuracy %"] in [line[task] for line in pivot if line[0] == row["algorithm"]]
        assert row["accuracy %"].removeprefix("≈ ").split(" ± ")[0] == f"{statistics.fmean(accuracies):.2f}"
        assert row["sd of seeds"] == f"{statistics.stdev(accuracies):.2f}"
        assert row["published"] == ("40.0 ± 0.5: above" if row["algorithm"] == "maml" else "–")
    said = sorted(f"{r['test']['accuracy']:.2f} ± {r['test']['accuracy_ci95']:.2f}" for r in stored(sweep))
    assert sorted(cells[1] for cells in each) == said
    papers = next(table for table in reader.tables if table[0][1] == "source")
    assert {tuple(row[1:3]) for row in papers[1:]} == {("Somebody 2020, Table 1", "40.0 ± 0.5")}
    cost = next(table for table in reader.tables if "ms per step" in table[0])
    assert {tuple(row[2:]) for row in cost[1:]} == {("10.5", "500.0", "1.0", "1234", "80.0")}
    # It loads nothing, and its contents lead somewhere.
    assert "cannot be drawn" not in text
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in reader.loaded), reader.loaded
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(reader.links) == 8
    assert {link.removeprefix("#") for link in reader.links} <= reader.ids
    for picture in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(picture)
        drawn = re.sub(r'base64,[^"]*|url\([^)]*\)|(id|href)="[^"]*"|#ffffff', "", picture)  # white is on marks only
        assert not re.search(r"#[0-9a-f]{6}\b", drawn), "a colour that is not the page's own"
    panels = 2 + 2 + 4 * 2 + 1 + 4  # shots and ways, curves of each task, paper, inner steps
    assert text.count("<svg") == panels + 2 * 8  # episode and map of each setting


def test_names_are_text_and_not_markup(make_run: Make, tmp_path: Path) -> None:
    make_run(algorithm="<b>&amp;")
    text = page.html(Report([tmp_path]))
    assert "<b>" not in text
    assert '&lt;b&gt;&amp;amp; reaches <span class="whole">' in text


def test_a_run_that_cannot_be_drawn_hides_no_other(make_run: Make, hand_made: Callable, tmp_path: Path) -> None:
    """Weights that are not finite, a class name that is no mathematics, a folder name that is not UTF-8."""
    odd = hand_made()
    odd.query_z[:] = float("nan")
    names = {"names": np.array(["$\\frac{1$", "<script>", "漢字"])}
    make_run(ways=3, kept=ShownEpisode(**vars(odd) | names))
    other = make_run(algorithm="protonet", ways=3, lift=20)
    try:
        other.path.rename(other.path.with_name(os.fsdecode(b"caf\xe9")))
    except OSError:  # a file system of UTF-8 only
        pytest.skip("this file system takes UTF-8 names only")
    report = Report([tmp_path])
    text = page.html(report)
    assert "cannot be drawn, its embeddings are not finite" in text
    assert "$\\frac{1$" in text
    assert "<script>" not in text
    assert "caf\\udce9" in text
    text.encode()
    for made in (documents.markdown(report), documents.csv_file(report.runs), documents.latex(report)):
        made.encode()
    assert "protonet leads maml by" in Reader(text).text


def test_every_setting_that_differs_and_the_protocol_are_in_the_csv(make_run: Make, tmp_path: Path) -> None:
    make_run(keys={"inner_lr": 0.1, "note": "=cmd()"})
    make_run(keys={"inner_lr": 0.4, "note": "x"}, protocol={"norm_statistics": "running"})
    first, second = csv.DictReader(io.StringIO(documents.csv_file(Report([tmp_path]).runs)))
    assert (first["algorithm.inner_lr"], second["algorithm.inner_lr"]) == ("0.1", "0.4")
    assert (first["protocol.norm_statistics"], second["protocol.norm_statistics"]) == ("batch", "running")
    assert first["algorithm.note"] == "'=cmd()"
    assert "trainer.steps" not in first


def test_latex_for_a_paper(make_run: Make, tmp_path: Path) -> None:
    make_run(algorithm="my_algorithm", lift=30)
    best = make_run(algorithm="protonet").result["test"]
    text = documents.latex(Report([tmp_path]))
    assert (
        "\\begin{tabular}{lr}\n\\toprule\nalgorithm & 5-way 1-shot \\\\\n\\midrule\nmy\\_algorithm & \\textbf{" in text
    )
    assert f"protonet & {best['accuracy']:.2f} $\\pm$ {best['accuracy_ci95']:.2f} \\\\" in text


def test_a_swept_key_is_an_axis_and_configurations_are_on_the_page(make_run: Make, tmp_path: Path) -> None:
    for lr in (0.1, 0.4):
        make_run(keys={"inner_lr": lr})
    text = page.html(Report([tmp_path]))
    assert "Accuracy by inner_lr, 5-way 1-shot" in text
    assert "  inner_lr: 0.4\n" in text


def test_protocols_that_differ_are_shown(make_run: Make, tmp_path: Path) -> None:
    make_run(protocol={"norm_statistics": "batch"})
    make_run(algorithm="protonet", protocol={"norm_statistics": "running"})
    reader = Reader(page.html(Report([tmp_path])))
    differing = next(table for table in reader.tables if table[0] == ["what", "value", "runs"])
    assert differing[1:] == [["norm_statistics", "batch", "maml"], ["norm_statistics", "running", "protonet"]]
    assert "The same in all runs." in reader.text


def test_one_run_or_none_is_a_report_too(make_run: Make, tmp_path: Path) -> None:
    run = make_run(algorithm="protonet", finished=False)
    reader = Reader(page.html(Report([tmp_path])))
    assert "unfinished" in reader.text
    assert [row[2] for table in reader.tables for row in table if str(run.path) in row] == ["20 of 20"]
    old = make_run().path / "result.json"
    told = json.loads(old.read_text())
    told.pop("environment")
    old.write_text(json.dumps(told | {"backbone": {"name": "net", "parameters": 1, "image_size": []}}))
    assert "maml_toys_5w1s" in Reader(page.html(Report([tmp_path]))).text


def test_markdown(sweep: Path) -> None:
    text = documents.markdown(Report([sweep]))
    assert text.startswith("# In all 4 tasks the best setting cannot be told from the next\n\nRuns of ")
    lines = text.splitlines()
    assert lines[lines.index("## Results") + 2].startswith("| algorithm | 5-way 1-shot |")
    for title, rows, width in (("## Results", 5, 6), ("## All settings", 10, 7), ("## Pairs", 6, 7)):
        assert {line.count("|") for line in lines[lines.index(title) + 2 :][:rows]} == {width}
    assert "## Not finished" not in text


SWEEP = {
    "schema": 1,
    "command": ["fewshot", "train", "-m", "shots=1,5,9"],
    "jobs": [
        {"number": n, "identity": None if n == 4 else f"id{n}", "overrides": [f"shots={k}", "threads=1"],
         "status": status, "exit_code": code, "reason": reason, "attempts": 1, "seconds": 2.0, "log": f"logs/{n}.log"}
        for n, k, status, code, reason in (
            (0, 1, "failed", 1, "exit code 1"), (1, 5, "failed", -9, "killed"), (2, 9, "waiting", None, None),
            (3, 2, "done", 0, None), (4, "x", "failed", 2, "shots=x is a text"),
        )
    ],
}  # fmt: skip


def test_a_partial_sweep(make_run: Make, tmp_path: Path) -> None:
    """What is there, what is missing, and the last lines of what failed; a result counts whatever sweep.json says."""
    folder = tmp_path / "outputs" / "sweeps" / "s"
    (folder / "logs").mkdir(parents=True)
    make_run().path.rename(folder / "id0")
    make_run(shots=5, finished=False).path.rename(folder / "id1")
    (folder / "sweep.json").write_text(json.dumps(SWEEP))
    (folder / "logs" / "1.log").write_text("".join(f"line {i}\n" for i in range(99)) + "bar 1%\rbar 2%\n<killed>\n")
    report = Report([tmp_path / "outputs"])
    assert len(report.finished) == 1
    assert [(job.number, job.status) for job in report.jobs] == [
        (1, "failed"),
        (2, "waiting"),
        (3, "missing"),
        (4, "failed"),
    ]
    assert report.jobs[0].last_lines[-3:] == ("line 98", "bar 2%", "<killed>")
    assert report.jobs[1].last_lines == ()
    assert report.summary() == (
        "1 run finished, 1 unfinished; sweep s of 5 jobs: 1 with a result, 2 failed, 1 waiting, 1 missing"
    )
    rows = [row[:4] for row in report.unfinished.rows]  # the unfinished run is its job's, not a line of its own
    assert rows == [["job 1: shots=5", "failed", "20 of 20", "killed"], ["job 2: shots=9", "waiting", "–", "–"],
                    ["job 3: shots=2", "missing", "–", "–"],
                    ["job 4: shots=x", "failed", "–", "shots=x is a text"]]  # fmt: skip
    text = page.html(report)
    assert "line 98\nbar 2%\n&lt;killed&gt;</pre>" in text
    assert "fewshot train -m shots=1,5,9" in text


def test_a_damaged_sweep_file_hides_no_run(make_run: Make, tmp_path: Path) -> None:
    make_run()
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"jobs": [{}]}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sweep.json").write_text(text)
    report = Report([tmp_path])
    assert (len(report.finished), report.sweeps) == (1, [])
