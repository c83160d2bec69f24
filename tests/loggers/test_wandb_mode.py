"""Online or offline: what is asked for, then WANDB_MODE, then wandb's own files, then whether there is a key."""

import os
from pathlib import Path

import pytest

from fewshot.loggers.wandb_mode import choose_mode

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without key and settings, in an empty folder."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("mode", "variables", "files", "expected"),
    [
        ("auto", {}, {}, ("offline", None)),
        ("auto", {"WANDB_API_KEY": KEY}, {}, ("online", KEY)),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, {}, ("offline", None)),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, {}, ("offline", None)),
        ("auto", {"WANDB_MODE": "online"}, {}, ("online", None)),
        ("online", {"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, {}, ("online", KEY)),
        ("offline", {"WANDB_API_KEY": KEY}, {}, ("offline", None)),
        ("auto", {}, {".netrc": f"machine api.wandb.ai login user password {KEY}"}, ("online", KEY)),
        ("auto", {}, {".netrc": f"machine example.org login user password {KEY}"}, ("offline", None)),
        ("auto", {}, {".netrc": f"default login anonymous password {KEY}"}, ("offline", None)),
        ("auto", {}, {".netrc": "machine api.wandb.ai login"}, ("offline", None)),
        ("auto", {"NETRC": "mine"}, {"mine": f"machine api.wandb.ai login u password {KEY}"}, ("online", KEY)),
        (
            "auto",
            {},
            {
                ".config/wandb/settings": "[default]\nbase_url = https://wandb.example.org\n",
                ".netrc": f"machine wandb.example.org login user password {KEY}",
            },
            ("online", KEY),
        ),
        ("auto", {"WANDB_API_KEY": KEY}, {"wandb/settings": "[default]\nmode = offline\n"}, ("offline", None)),
        ("auto", {}, {"wandb/settings": "no section\n"}, ("offline", None)),
    ],
)
def test_mode(tmp_path, monkeypatch, mode, variables, files, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert choose_mode(mode) == expected
