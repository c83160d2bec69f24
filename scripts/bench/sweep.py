"""A sweep under the local launcher beside Hydra's basic launcher, with and without faults.

    python scripts/bench/sweep.py [--jobs 24] [--steps 400] [--json docs/results/bench_sweep.json]

Four sweeps of the same jobs (one thread each, two at a time), each a `fewshot train -m` of its own:

1. local launcher, no faults;
2. basic launcher, no faults: one after the other in one process;
3. local launcher with four jobs that raise, call sys.exit, are killed with -9, and hang past their timeout;
4. the same command as 3 without the faults: exactly those four are run.

The ideal for two slots is half of the jobs' own working times. A job's working time is that from the start of its
record (run.json: its data and model are there) to its result.json; so the start of processes, imports, composition,
data and model are all counted against the launcher. A job that fails has no result: what counts as its time is that
of its process. Wall times are those of the whole command.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fewshot.engine.durable import replace
from fewshot.engine.runtime import describe

SLOTS = 2
TIMEOUT, GRACE = 40, 2  # seconds; a job takes a tenth
FAULTS = {3: "throw", 7: "leave", 11: "die", 15: "hang"}
ALGORITHM = '''
import os, signal, sys, time

from fewshot.algorithms.protonet import ProtoNet


class Faulty(ProtoNet):
    """Prototypical networks, and in step 20 what FAULTS says of this seed."""

    def __init__(self, backbone, *, seed, **keys):
        super().__init__(backbone, **keys)
        self.fault = dict(word.split("=") for word in os.environ.get("FAULTS", "").split()).get(str(seed), "work")
        self.steps = 0

    def forward(self, batch):
        self.steps += 1
        if self.steps == 20:
            getattr(self, self.fault)()
        return super().forward(batch)

    def work(self): ...

    def throw(self):
        raise RuntimeError("injected")

    def leave(self):
        sys.exit(3)

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self):
        while True:
            time.sleep(60)
'''
YAML = """
_target_: faulty.Faulty
stream: {_target_: fewshot.episode.Episodes, tasks: 2, ways: 5, shots: 1, queries: 5}
distance: squared_euclidean
temperature: 10.0
seed: ${seed}
"""


class Swept(NamedTuple):
    """One sweep, measured."""

    wall: float  # seconds of the command
    exit_code: int
    results: dict[str, float]  # identity -> mtime of its result.json
    ideal: float  # seconds
    failed: dict[int, str]  # number -> reason


def sweep(here: Path, name: str, words: list[str], faults: str = "") -> Swept:
    """Run `fewshot train -m` and read what it has left."""
    command = [sys.executable, "-m", "fewshot", "train", "-m", *words, f"name={name}"]
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=here, env=os.environ | {"FAULTS": faults}, capture_output=True, text=True)
    wall = time.perf_counter() - begin
    folder = here / "outputs" / "sweeps" / name
    files = list(folder.glob("*/result.json"))
    jobs: list[dict[str, Any]] = []
    if (folder / "sweep.json").exists():
        jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
    failed = [job for job in jobs if job["status"] != "done"]
    worked = sum(working_seconds(file.parent) for file in files) + sum(job["seconds"] for job in failed)
    return Swept(
        wall=wall, exit_code=done.returncode, results={f.parent.name: f.stat().st_mtime for f in files},
        ideal=worked / SLOTS, failed={job["number"]: job["reason"] for job in failed},
    )  # fmt: skip


def working_seconds(run: Path) -> float:
    """From the start of a run's record to its result."""
    started = datetime.fromisoformat(json.loads((run / "run.json").read_text())["created"]).timestamp()
    return (run / "result.json").stat().st_mtime - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--steps", type=int, default=400, help="training steps of a job")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "faulty.py").write_text(ALGORITHM)
        (here / "conf" / "algorithm").mkdir(parents=True)
        (here / "conf" / "algorithm" / "faulty.yaml").write_text(YAML)
        words = [
            "--config-dir", "conf", "algorithm=faulty", "backbone.filters=16", f"trainer.steps={args.steps}",
            "trainer.val_every=200", "evaluation.episodes=200", "logger=console", "threads=1",
            f"seed=range({args.jobs})",
        ]  # fmt: skip
        local = [*words, f"hydra.launcher.slots={SLOTS}"]
        limits = [f"hydra.launcher.timeout={TIMEOUT}", f"hydra.launcher.grace={GRACE}"]
        clean = sweep(here, "local", local)
        basic = sweep(here, "basic", [*words, "hydra/launcher=basic"])
        faulty = sweep(here, "faults", [*local, *limits], " ".join(f"{k}={v}" for k, v in FAULTS.items()))
        again = sweep(here, "faults", [*local, *limits])
    return report(args, clean, basic, faulty, again)


def report(args: argparse.Namespace, clean: Swept, basic: Swept, faulty: Swept, again: Swept) -> int:
    untouched = all(again.results.get(identity) == at for identity, at in faulty.results.items())
    figures = {
        "local / ideal": clean.wall / clean.ideal,
        "local with faults / ideal": faulty.wall / faulty.ideal,
        "basic / local": basic.wall / clean.wall,
        "seconds": {"local": clean.wall, "basic": basic.wall, "local with faults": faulty.wall, "again": again.wall},
        "ideal seconds": {"local": clean.ideal, "local with faults": faulty.ideal},
        "results": {"local": len(clean.results), "basic": len(basic.results), "local with faults": len(faulty.results),
                    "again": len(again.results)},
        "run again": len(again.results) - len(faulty.results),
        "finished ones untouched": untouched,
        "exit codes": [clean.exit_code, basic.exit_code, faulty.exit_code, again.exit_code],
        "failed": faulty.failed,
        "machine": f"{describe(torch.device('cpu'))}, {len(os.sched_getaffinity(0))} cores",
        "command": f"python scripts/bench/sweep.py --jobs {args.jobs} --steps {args.steps}",
    }  # fmt: skip
    print(json.dumps(figures, indent=2))
    if args.json:
        replace(args.json, (json.dumps(figures, indent=2) + "\n").encode())
    complete = len(again.results) == args.jobs and untouched and len(faulty.failed) == len(FAULTS)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
