"""What makes two runs the same, and two sweeps."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fewshot.cli.compose import conf_dir
from fewshot.cli.job import sweep_name
from fewshot.identity import OUTSIDE_IDENTITY, differing_keys, flatten, identity

GROUPS = ("dataset", "backbone", "algorithm", "augment", "trainer", "experiment", "logger")
SHIPPED = sorted(file for group in GROUPS for file in (conf_dir() / group).rglob("*.yaml"))

CONFIG = {
    "ways": 5, "threads": 1, "device": "cpu", "name": None,
    "dataset": {"cache_dir": "/a", "size": 28}, "logger": {"wandb": {"project": "p"}},
}  # fmt: skip


def test_what_shows_or_hosts_a_run_is_outside_its_identity() -> None:
    elsewhere = CONFIG | {
        "threads": 8,
        "device": "cuda",
        "name": "x",
        "logger": None,
        "dataset": {"cache_dir": "/b", "size": 28},
    }
    assert identity(CONFIG) == identity(elsewhere)
    assert differing_keys(CONFIG, elsewhere) == []
    assert identity(CONFIG) != identity(CONFIG | {"ways": 6})
    assert identity(CONFIG) != identity(CONFIG | {"dataset": {"cache_dir": "/a", "size": 32}})
    assert differing_keys(CONFIG | {"ways": 6}, CONFIG) == ["ways: 5 -> 6"]


def placed(file: Path) -> dict[str, Any]:
    """The keys of a YAML file where its `@package`, or else its group, puts them."""
    text = file.read_text()
    keys = yaml.safe_load(text) or {}
    keys.pop("defaults", None)
    if text.startswith("# @package _global_"):
        return dict(keys)
    package = text.split("\n", 1)[0].removeprefix("# @package ") if text.startswith("# @package") else ""
    groups = file.relative_to(conf_dir()).parts[:-1]
    for part in reversed(package.split(".") if package else groups):
        keys = {part: keys}
    return dict(keys)


def changed(config: dict[str, Any], path: str) -> dict[str, Any]:
    """The same with another value at `path`."""
    new = copy.deepcopy(config)
    *way, last = path.split(".")
    node = new
    for part in way:
        node = node[part]
    node[last] = [node[last], "another"]
    return new


@pytest.mark.parametrize("file", [conf_dir() / "config.yaml", *SHIPPED], ids=lambda f: str(f.relative_to(conf_dir())))
def test_every_shipped_key_is_part_of_the_identity_but_those_on_the_list(file: Path) -> None:
    config = placed(file)
    config.pop("hydra", None)
    for path in flatten(config):
        listed = any(path == out or path.startswith(f"{out}.") for out in OUTSIDE_IDENTITY)
        assert (identity(changed(config, path)) == identity(config)) == listed, path


@pytest.mark.parametrize("group", ["dataset", "backbone", "algorithm", "trainer", "augment"])
@pytest.mark.parametrize(
    "key", ["name", "device", "threads", "resume", "profile", "logger", "output_dir", "mine.cache_dir"]
)
def test_a_key_of_a_users_own_is_part_of_the_identity_whatever_its_name(group: str, key: str) -> None:
    if f"{group}.{key}" in OUTSIDE_IDENTITY:
        group = "mine"  # trainer.profile is ours
    own: dict[str, Any] = {}
    node = own.setdefault(group, {})
    *way, last = key.split(".")
    for part in way:
        node = node.setdefault(part, {})
    node[last] = "a"
    assert identity(changed(own, f"{group}.{key}")) != identity(own)
    assert sweep_name("config", [f"{group}.{key}=a,b"]) != sweep_name("config", [f"{group}.{key}=a,c"])


def test_a_sweep_is_named_by_what_varies() -> None:
    words = ["algorithm=maml,protonet", "shots=1,5", "trainer.steps=10"]
    name = sweep_name("config", words)
    assert name.startswith("algorithm-maml-protonet_shots-1-5_")
    same = [
        words[1],
        words[0],
        words[2],
        "threads=2",
        "logger=console",
        "logger.wandb.mode=offline",
        "device=cpu",
        "resume=true",
    ]
    assert sweep_name("config", same) == name
    assert sweep_name("evaluate", words) != name
    assert sweep_name("config", [*words[:2], "trainer.steps=20"]) != name
    assert sweep_name("config", ["algorithm.inner_lr=interval(0.01, 1)"]).startswith("inner_lr-interval-0.01-1_")
    assert sweep_name("config", ["+a='x y/ü',b", "c=" + "1," * 99]).isascii()
    assert len(sweep_name("config", ["seed=" + ",".join(map(str, range(99)))])) < 70
    assert len(sweep_name("config", [])) == 6


def test_a_launcher_can_ask_without_torch() -> None:
    check = "import sys; import fewshot.cli.job; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
