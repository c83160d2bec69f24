"""`fewshot predict` on folders of drawn pictures, in one process; every bad input is one line and exit code 2."""

import csv
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from rights import ordinary_user
from toy_data import COLOURS, TINY_NETWORK, picture

from fewshot.cli.predict import main
from fewshot.errors import FewshotError, InputError

NO_PICTURE = "cannot be read: it is no picture"
BOMB = b"BM" + struct.pack("<IIIIIIHH24x", 0, 0, 54, 40, 60_000, 60_000, 1, 24)  # a header of 60 000 x 60 000 pixels


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """support/ of 4, 4 and 1 pictures at unequal depth, query/ of 2 each."""
    for n, (name, colour) in enumerate(COLOURS.items()):
        for i in range(1 if name == "fish" else 4):
            picture(tmp_path / "support" / name / f"{i}.png", colour, 10 * n + i)
        for i in range(2):
            picture(tmp_path / "query" / name / f"{i}.png", colour, 100 + 10 * n + i)
    return tmp_path


@pytest.fixture
def predict(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.chdir(pictures)
    monkeypatch.setenv("FEWSHOT_CACHE", str(pictures / "cache"))

    def run(*words: str, support: str = "support", query: str = "query") -> None:
        torch.manual_seed(0)
        assert main([f"support={support}", f"query={query}", *TINY_NETWORK, *words]) == 0

    return run


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_labels_accuracy_csv_and_page(
    predict: Callable[..., None], pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict("out=found/a.csv", "html=found/a.html")
    said = capsys.readouterr().out
    assert "learned from 9 pictures of 3 classes, 1 to 4 each" in said
    assert "true accuracy, by the folders of query: 100.0 % (95 % interval 61.0 to 100.0, 6 pictures)" in said
    assert "expected accuracy: 100.0 %" in said
    assert "Add a second picture of fish" in said
    found = rows(pictures / "found" / "a.csv")
    assert [row["label"] for row in found] == [row["true"] for row in found]
    assert list(found[0]) == ["path", "label", "probability", "runner_up", "true", *COLOURS]
    assert all(sum(float(row[name]) for name in COLOURS) == pytest.approx(1, abs=1e-5) for row in found)
    page = (pictures / "found" / "a.html").read_text()
    assert page.count("<article") == 6
    assert "True accuracy" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_second_call_needs_no_network(predict: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    predict()
    (Path("query") / "dog" / "0.png").rename(Path("query") / "dog" / "other.png")

    def fails(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was made again")

    monkeypatch.setattr("fewshot.assemble.make_backbone", fails)
    predict()


def test_where_all_is_known_torch_is_not_imported(predict: Callable[..., None], pictures: Path) -> None:
    predict()
    words = ["support=support", "query=query", *TINY_NETWORK, "out=a.csv", "html=a.html"]
    check = "import sys; from fewshot.cli.predict import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check, *words], check=True, cwd=pictures, capture_output=True)


def test_names_are_shown_and_not_obeyed(
    predict: Callable[..., None], pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of files, in the terminal and on the page; a `~` is the user's folder."""
    monkeypatch.setenv("HOME", str(pictures))
    odd = "x\x1b[2J[red]a.png"
    (Path("query") / "dog" / "0.png").rename(Path("query") / "dog" / odd)
    (Path("query") / "dog" / "no\x1b[2J.txt").write_text("")
    predict("out=~/a.csv", "html=~/found/a.html")
    said, page = capsys.readouterr().out, (pictures / "found" / "a.html").read_text()
    for text in (said, page, (pictures / "a.csv").read_text()):
        assert "\x1b" not in text
        assert "x\\x1b[2J[red]a.png" in text
    assert "left out (no\\x1b[2J.txt)" in said


def test_features_beyond_memory_stay_on_disk(predict: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """And damaged ones are computed again: an empty file, as a power cut leaves it, at once; one whose features alone
    are damaged, which is found when they are read, by the next call."""
    predict("out=a.csv")
    one, other, *_ = sorted(Path("cache").glob("features/*/*.npz"))
    one.write_bytes(b"")
    other.write_bytes(other.read_bytes().replace(b"\x93NUMPY", b"\x93NUMPX", 1))
    with pytest.raises(FewshotError, match=r"\.npz is damaged or gone: .*; run the command again"):
        predict()
    monkeypatch.setattr("fewshot.own_pictures.features.IN_MEMORY", 0)
    monkeypatch.setattr("fewshot.own_pictures.unit_features.CHUNK", 1000)
    predict("out=b.csv")
    assert Path("a.csv").read_text() == Path("b.csv").read_text()


def test_what_is_left_out_is_named(predict: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    (Path("support") / "dog" / "notes.txt").write_text("woof")
    (Path("support") / "dog" / ".hidden.png").write_bytes(b"")
    (Path("support") / "dog" / "copy.bmp").write_bytes(b"")
    Image.open(Path("support") / "dog" / "0.png").save(Path("support") / "dog" / "copy.bmp")
    Image.open(Path("support") / "dog" / "1.png").save(Path("support") / "animals" / "cat" / "dog.png")
    Image.open(Path("support") / "dog" / "2.png").save(Path("query") / "dog" / "seen.png")
    predict()
    said = capsys.readouterr().out
    assert "support: 1 hidden files left out (.hidden.png)" in said
    assert "support: 1 files that are no pictures left out (notes.txt)" in said
    assert "support: 1 copies of other pictures left out (copy.bmp)" in said
    assert "support: 1 pictures are in animals/cat and in dog, the same pixels" in said
    assert "query: 1 of 7 pictures are in support, too" in said
    assert "6 pictures)" in said


def test_fine_tuning_says_how_often_and_shares_no_cache(
    predict: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    predict()
    predict("adapt=all", query="query/dog")
    said = capsys.readouterr().out
    assert "adapt=all takes 6 fits: 5 without a part of the pictures, for the expected accuracy, and one" in said
    assert said.count("expected accuracy: ") == 2


def test_unknown_things_are_called_so(predict: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    picture(Path("query") / "ship" / "0.png", (250, 250, 20), 5)
    predict("unknown=0.05", "out=a.csv")
    assert "unknown: " in capsys.readouterr().out
    assert {row["label"] for row in rows(Path("a.csv"))} <= {*COLOURS, "unknown"}


def test_files_and_patterns(predict: Callable[..., None]) -> None:
    predict("out=a.csv", query="query/dog/0.png,query/fish/*.png")
    assert [row["path"] for row in rows(Path("a.csv"))] == ["query/dog/0.png", "query/fish/0.png", "query/fish/1.png"]
    assert "true" not in rows(Path("a.csv"))[0]


def test_unreadable_files_are_an_error_or_skipped(
    predict: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path("support") / "dog" / "broken.jpg"
    for content, reason in (
        (BOMB, r"is too large: Image size \(3600000000 pixels\) exceeds"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "cannot be read: it is HEIC, which Pillow does not read; convert it"),
        (b"no picture", NO_PICTURE),
    ):
        broken.write_bytes(content)
        with pytest.raises(InputError, match=rf"broken\.jpg {reason}.*; remove it, or set unreadable=skip"):
            predict()
    with pytest.raises(InputError, match=rf"broken\.jpg {NO_PICTURE}"):
        predict(support="query", query=str(broken))
    predict("unreadable=skip")
    assert "1 unreadable files left out (broken.jpg)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["query=query"], "predict needs support=DIR"),
        (["support=support"], "predict needs query=DIR"),
        (["support=nowhere", "query=query"], "support=nowhere is not a folder"),
        (["support=support", "query=nowhere"], "query=nowhere: there is no such file or folder"),
        (["support=empty", "query=query"], "no pictures below empty"),
        (["support=support/dog", "query=query"], r"4 pictures lie in support/dog itself \(0.png, ...\); put each into"),
        (["support=one", "query=query"], "one has one class, dog; two are needed"),
        (["support=support", "query=more"], r"query has 1 folders that are no class of support \(ship\); add pictures"),
        (["support=support", "query=query", "device="], "device is empty; give it a value, or leave device out"),
        (["support=support", "query=query", "--config-dir=nowhere"], "--config-dir nowhere is not"),
        (["support=support", "query=query", "unknown=2"], "unknown=2.0 is no share between 0 and 1"),
        (["support=support", "query=query", "unknown=no"], "unknown=no is not a number such as 0.05"),
        (["support=support", "query=query", "unreadable=ask"], "unreadable=ask is unknown; choose error or skip"),
        (["support=support", "query=query", "querry=a"], "'querry=a' is no KEY=VALUE of predict; did you mean query?"),
        (["support=support", "query=query", "backbone=conv4"], "backbone=conv4 is not pre-trained; choose"),
        (["support=support", "query=query", "backbone=nothing"], "there is no 'backbone/nothing'"),
        (["support=support", "query=query", "head=svm"], "head=svm is unknown; choose ridge, logistic, cosine or cl2n"),
        (["support=support", "query=query", "adapt=some"], "adapt=some is unknown; choose head or all"),
        (["support=support", "query=query", "run=a", "adapt=all"], "adapt=all has no meaning here: run=a adapts as it"),
        (["support=support", "query=query", "run=a", "head=cosine"], "head=cosine has no meaning here: run=a has its"),
        (["support=support", "query=query", "backbone=timm", "threads=0"], "threads=0 is below 1"),
        (["support=support", "query=query", "out=support/dog"], "cannot write support/dog: Is a directory; choose"),
        (["support=support", "query=query", "checkpoint=best"], "checkpoint=best has no meaning here: it needs run="),
        (
            ["support=support", "query=query", "run=a", "backbone=b"],
            "backbone=b has no meaning here: run=a has its own",
        ),
    ],
)
def test_bad_input_is_one_line(pictures: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(pictures)
    monkeypatch.setenv("FEWSHOT_CACHE", str(pictures / "cache"))
    (pictures / "empty").mkdir()
    picture(pictures / "one" / "dog" / "0.png", (1, 2, 3), 0)
    for name in ("dog", "ship"):
        picture(pictures / "more" / name / "0.png", (1, 2, 3), 0)
    own = [] if any(word.startswith("backbone") for word in words) else TINY_NETWORK
    with pytest.raises(InputError, match=message) as raised:
        main([*words, *own])
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)


def test_a_runs_algorithm_at_its_ways(
    predict: Callable[..., None], pictures: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A MAML run, whose head serves five classes: it adapts to five, and says so of three."""
    words = [f"run={trained}", "algorithm.eval_inner_steps=1", "threads=1", "query=query/dog"]
    with pytest.raises(InputError, match="support has 3 classes: ways=3, but this head was learned for ways=5"):
        main(["support=support", *words])
    for n, name in enumerate(("ship", "sun")):
        for i in range(2):
            picture(pictures / "support" / name / f"{i}.png", (90 * n, 90, 0), 50 + 10 * n + i)
    assert main(["support=support", *words, "out=a.csv"]) == 0
    assert "expected accuracy: " in capsys.readouterr().out
    assert len(rows(pictures / "a.csv")) == 2


def test_a_missing_extra_is_named(predict: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"backbone=timm needs the package timm: pip install 'fewshot\[timm\]'"):
        predict()


def test_rights_are_named(predict: Callable[..., None], pictures: Path) -> None:
    predict()  # imports what it needs with our own rights
    for name, message in (
        ("dog", r"support/dog may not be read; change its rights"),
        ("fish/0.png", r"support/fish/0\.png cannot be read: Permission denied; remove it, or set unreadable=skip"),
    ):
        (pictures / "support" / name).chmod(0)
        with ordinary_user(pictures), pytest.raises(InputError, match=message):
            predict()
        (pictures / "support" / name).chmod(0o755)


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"{key}=" in said for key in ("support", "query", "backbone", "out", "html", "unknown", "unreadable"))
