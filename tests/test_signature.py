"""Whose run it is, by the key that only its user has."""

import stat
from pathlib import Path

import pytest

from fewshot.signature import is_own, key_file, sign


def test_only_what_was_signed_with_this_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "me"))
    assert not is_own(b"ways: 5", "0" * 64)  # nothing signed yet
    mine = sign(b"ways: 5")
    assert mine == sign(b"ways: 5")
    assert is_own(b"ways: 5", mine)
    assert not is_own(b"ways: 6", mine)
    assert not is_own(b"ways: 5", None)
    assert not is_own(b"ways: 5", "größe")
    file = key_file()
    assert file == tmp_path / "me" / "fewshot" / "key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["key"]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    assert not is_own(b"ways: 5", mine)
    assert sign(b"ways: 5") != mine


def test_where_no_key_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert sign(b"ways: 5") is None
    assert not is_own(b"ways: 5", "0" * 64)
