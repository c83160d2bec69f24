"""`fewshot data list|prepare|verify|show`."""

import os
import re
import shutil
from pathlib import Path

import pytest
from command_line import refusal, start, succeed
from PIL import Image

CONF = Path(__file__).parents[2] / "conf"


def test_list_names_every_data_set(tmp_path: Path) -> None:
    done = start("data", "list", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert set(lines) == {file.stem for file in (CONF / "dataset").glob("*.yaml")}
    assert lines["omniglot"].startswith("1623 handwritten characters")


def test_prepare(tmp_path: Path) -> None:
    out = succeed("data", "prepare", "glyphs", "dataset.rotations=task", cwd=tmp_path).out
    assert re.search(r"^train +\d+ classes in \d+ groups$", out, re.MULTILINE)
    assert re.search(r"^glyphs: \d+ images of 1x28x28, split [0-9a-f]{12}, ready in ", out, re.MULTILINE)


def test_verify(tmp_path: Path) -> None:
    """In order; then with a bit of one pixel turned over, in a copy."""
    said = succeed("data", "verify", "glyphs", cwd=tmp_path).out
    found = re.search(r"glyphs: \d+ classes in \d+ alphabets, .*; prepared array (.*) is intact\n", said)
    assert found
    copy = tmp_path / "cache" / Path(found[1]).name
    shutil.copytree(found[1], copy)
    pixels = bytearray((copy / "images.bin").read_bytes())
    pixels[12345] ^= 1
    (copy / "images.bin").write_bytes(pixels)
    said = refusal("data", "verify", "glyphs", f"cache_dir={tmp_path}/cache", cwd=tmp_path, code=1)
    assert re.search(r"images\.bin is damaged \(sha256 \w+\.\., expected \w+\.\.\); delete the folder", said)


def test_show_draws_episodes(tmp_path: Path) -> None:
    out = succeed("data", "show", "glyphs", "--split", "test", "ways=3", "shots=2", cwd=tmp_path).out
    assert out == "outputs/data/glyphs.png\n"
    with Image.open(tmp_path / "outputs" / "data" / "glyphs.png") as picture:
        assert min(picture.size) > 300
    words = ("data", "show", "glyphs", "--episodes", "1", "--out", "my pictures/one.png")
    assert succeed(*words, cwd=tmp_path).out == "my pictures/one.png\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the following arguments are required: action; see fewshot data --help"),
        ("look", "invalid choice: 'look'"),
        ("show", "fewshot data show needs one data set; `fewshot data list` names them"),
        ("show glyphs omniglot", "fewshot data show needs one data set"),
        ("show glyph", "omniglot, tiered_imagenet; did you mean glyphs?"),
        ("show glyphs --bogus", "unrecognized arguments: --bogus; see fewshot data --help"),
        ("list --config-dir nowhere", "--config-dir nowhere is not a folder"),
        ("show glyphs --episodes 101", "argument --episodes: 101 is above 100"),
        ("show glyphs --episodes 0", "argument --episodes: 0 is below 1"),
        ("show glyphs --split nope", "split 'nope' of 'glyphs' has no classes; there are: train ("),
        ("show glyphs ways=2000", "ways=2000 but split 'train' of 'glyphs' has "),
        ("show glyphs wayz=2", "'wayz' is not a key of the configuration; near it: ways"),
        ("show glyphs --out /dev/null/x.png", "cannot write /dev/null/x.png: "),
        ("prepare glyphs cache_dir=/dev/null", "/dev/null"),
        ("verify omniglot data_dir=/nowhere dataset.download=false cache_dir=c", "into /nowhere/omniglot-py"),
    ],
)
def test_refused(tmp_path: Path, words: str, message: str) -> None:
    assert message in refusal("data", *words.split(), cwd=tmp_path)


@pytest.mark.skipif("FEWSHOT_DATA" not in os.environ, reason="FEWSHOT_DATA is not set")
def test_omniglot_is_listed_by_split(tmp_path: Path) -> None:
    out = succeed("data", "prepare", "omniglot", cwd=tmp_path).out
    assert [int(line.split()[1]) for line in out.splitlines()[:3]] == [1028, 172, 423]
