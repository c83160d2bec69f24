"""What makes two runs the same, and two sweeps."""

import subprocess
import sys

from fewshot.cli.identity import differing_keys, identity, sweep_name

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
    check = "import sys; import fewshot.cli.identity; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
