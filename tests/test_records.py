"""What a record may be, and the one line that says why a file is none."""

import io
import json
import math
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot import records, schema
from fewshot.records import Damaged, inside, read_arrays, read_json, read_yaml, sealed
from fewshot.schema import Number, fault

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"


def refused(path: Path, read: Any, *more: Any) -> str:
    """What `read` says is wrong with the file, without the file."""
    with pytest.raises(Damaged) as caught:
        read(path, *more)
    said, line = f"{path} is damaged: ", str(caught.value)
    assert line.startswith(said)
    assert "\n" not in line
    return line.removeprefix(said)


@pytest.mark.parametrize("read", [lambda p: read_yaml(p, {}), lambda p: read_json(p, {}), read_arrays])
def test_what_is_no_file_is_not_opened(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "record.json"
    with pytest.raises(FileNotFoundError):
        read(path)
    path.mkdir()
    assert refused(path, read) == "it is a folder, not a file"
    path.rmdir()
    os.mkfifo(path)
    assert refused(path, read) == "it is not a file"  # and nothing waits for a writer
    path.unlink()
    path.symlink_to("/dev/zero")
    assert refused(path, read) == "it is not a file"
    path.unlink()
    with path.open("wb") as file:
        file.truncate(10 << 30)
    assert "it has 10737418240 bytes, more than the" in refused(path, read)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is null, not a group of keys"),
        ("- 1\n", "it is a list, not a group of keys"),
        ("a: 1\n\tb: 2\n", "it is no YAML, line 2 ("),
        ("a: {b", "it is no YAML, line 2 ("),
        ("a: !!python/object/apply:os.system ['touch x']\n", "it is no YAML, line 1 (could not determine a"),
        (BOMB, "it has aliases"),
        ("[" * 200 + "]" * 200, "it is nested too deeply"),
        ("a: 2020-01-01\n", "a is a date, no plain value"),
        ("a: [!!binary aGk=]\n", "a.0 is a bytes, no plain value"),
        ("a: {1.5: 2}\n", "a has the key 1.5"),
        ("a: \x00", "it is no YAML"),
        ("hydra: {callbacks: {}}\n", "it has the key hydra, which no run writes"),
        ("defaults: [a]\n", "it has the key defaults, which no run writes"),
    ],
)  # fmt: skip
def test_yaml(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert why in refused(path, read_yaml, {})
    path.write_bytes(b"\x80\x81binary")
    assert "it is no YAML" in refused(path, read_yaml, {})
    path.write_text("a: [1, 2.5, off, null, 'größe']\n")
    assert read_yaml(path, {}) == {"a": [1, 2.5, False, None, "größe"]}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is no JSON ("),
        ('{"a": NaN}', "it is no JSON (NaN is no JSON)"),
        ("[]", "it is a list, not a group of keys"),
        ("[" * 100_000, "it is no JSON ("),
        ("{}", "a is missing"),
        ('{"a": null}', "a is null, expected a whole number of 1 or more"),
        ('{"a": true}', "a is true or false, expected a whole number of 1 or more"),
        ('{"a": 0}', "a is 0, expected a whole number of 1 or more"),
        ('{"a": 2.5}', "a is 2.5, expected"),
        ('{"a": 1, "b": {"c": "x"}}', "b.c is a text, expected a number from 0 to 100"),
        ('{"a": 1, "b": {"c": "nan"}}', "b.c is a text, expected a number from 0 to 100"),
        (f'{{"a": {10**400}}}', "it is no JSON (a whole number of 401 digits)"),
        ('{"a": 1, "b": {"c": 1e999}}', "b.c is inf, expected a number from 0 to 100"),
        ('{"a": 1, "b": []}', "b is a list, expected a group of keys"),
        ('{"a": 1, "d": [1]}', "d.0 is a whole number, expected a text"),
    ],
)
def test_json_and_schema(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    wanted = {"a": schema.COUNT, "b?": ({"c": schema.PERCENT}, None), "d?": [str]}
    assert why in refused(path, read_json, wanted)
    path.write_text('{"a": 1, "b": null, "d": ["nan", "inf"], "more": "\\u001b[2J"}')  # classes may be called so
    assert read_json(path, wanted) == {"a": 1, "b": None, "d": ["nan", "inf"], "more": "\\x1b[2J"}
    assert read_json(path, wanted, names=True)["more"] == "\x1b[2J"


def test_numbers() -> None:
    assert fault(3.0, Number(), "x") is None
    assert fault(math.nan, Number(), "x") == "x is nan, expected a number"
    assert fault(1, float, "x") is None
    assert fault("1", float, "x") == "x is a text, expected a number"


def test_a_seal_tells_what_was_changed(tmp_path: Path) -> None:
    path, value = tmp_path / "x.json", {"b": 1.5, "a": [{"c": "ä"}]}
    path.write_text(json.dumps(sealed(value)))
    assert read_json(path, {}) == value
    assert not records.changed(path)
    path.write_text(json.dumps(sealed(value) | {"b": 1.6}))
    assert records.changed(path)
    path.write_text(json.dumps(value))  # of version 0.1
    assert not records.changed(path)


def npz(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def test_arrays(tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", a=np.arange(6).reshape(2, 3), names=np.array(["ä", "b"]))
    found = read_arrays(path)
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["names"].tolist() == ["ä", "b"]
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:90] + b"xx" + whole[92:]):
        path.write_bytes(damaged)
        assert "its arrays cannot be read (" in refused(path, read_arrays)
    npz(path, a=np.array([{}, 1], dtype=object))
    assert "an array of Python objects" in refused(path, read_arrays)


def test_a_header_that_promises_more_than_there_is(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue() + b"\0" * 64)
    assert "an array [1099511627776] float64 in" in refused(tmp_path / "x.npz", read_arrays)


def test_names_stay_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "sweep" / "logs").mkdir(parents=True)
    (tmp_path / "sweep" / "out").symlink_to("/etc")
    assert inside(tmp_path / "sweep", "logs/0.log") == tmp_path / "sweep" / "logs" / "0.log"
    for name in ("../../etc/passwd", "/etc/passwd", "logs/../../x", "out/passwd", ""):
        with pytest.raises(Damaged, match=re.escape(f"names '{name}', which is not in it")):
            inside(tmp_path / "sweep", name)
