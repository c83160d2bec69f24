"""What every benchmark here does the same way: time, memory, a process of its own, the machine, JSON, a table.

Each script is run as `python scripts/bench/NAME.py`, prints a table (the ratio is the first column) and takes

    --quick          tiny shapes, once, all in one process: shows that it works, its figures mean nothing
    --json FILE      also write the figures to FILE; `make bench` writes docs/results/bench_NAME.json
    --device cuda    measure on a GPU
    --goals          only the settings that have a goal, where time is short

A time is the median over repetitions after a warm-up, on an otherwise idle machine. `others %` says how idle it was:
the share of the cores that other processes had meanwhile (of the rows' sides the largest). Where they had more than
BUSY, a measurement is repeated once and the quieter one counts.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

BUSY = 3.0  # percent
Row = dict[str, Any]  # column -> value, as JSON and the table have it


class Measured(NamedTuple):
    """One side of a comparison."""

    ms: float  # median time of a step
    mb: float  # peak memory above what the process held before its first step
    others: float  # percent of the cores that other processes had meanwhile
    gradients: Any = None  # of the first step, in the order of the parameters: NumPy arrays


def arguments(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    return parser(doc).parse_args(argv)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Of what all scripts take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, once: only to see that it works")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--goals", action="store_true", help="only the settings that have a goal")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:<index>")
    return parser


class PeakMemory:
    """What this process needs above what it holds now: start it, work, ask for the peak."""

    def __init__(self, device: str) -> None:
        """A first convolution brings the libraries' own memory in; the kernel's peak then starts again."""
        self.cuda = device.startswith("cuda")
        x = torch.zeros(2, 1, 8, 8, requires_grad=True, device=device)
        torch.nn.functional.conv2d(x, x.new_zeros(4, 1, 3, 3)).sum().backward()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")
        self.idle = torch.cuda.memory_allocated() / 2**20 if self.cuda else _status("VmRSS")

    def peak_mb(self) -> float:
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.cuda else _status("VmHWM")
        return peak - self.idle


def measure(
    step: Callable[[], Any], device: str, *, net: nn.Module | None = None, quick: bool = False, seconds: float = 2.0
) -> Measured:
    """Time and peak memory of `step`: repeated for `seconds`, at least 3 and at most 25 times.

    Three steps go before, in which memory that is kept for reuse finds its places: of large steps these are slower.
    net: its gradients after the first step are kept. Nothing may have been computed before: a process that keeps
    freed memory would count that as idle.
    """
    memory = PeakMemory(device)
    timed(step, device)
    first = None if net is None else _gradients(net)
    for _ in range(0 if quick else 2):
        timed(step, device)
    tries: list[tuple[float, float]] = []  # others, seconds
    for _ in range(1 if quick else 2):
        load, times = Load(), list[float]()
        while len(times) < (1 if quick else 3) or (not quick and sum(times) < seconds and len(times) < 25):
            times.append(timed(step, device))
        tries.append((load.others(), median(times)))
        if tries[-1][0] < BUSY:
            break
    others, best = min(tries)
    return Measured(1e3 * best, memory.peak_mb(), others, first)


def _gradients(net: nn.Module) -> list[Any]:
    from plain import idle_biases

    own = [p.grad for name, p in net.named_parameters() if name not in idle_biases(net)]
    return [g.detach().cpu().contiguous().numpy().copy() for g in own if g is not None]


class Load:
    """What other processes take of the cores from here on."""

    def __init__(self) -> None:
        self.begin = self._now()

    def others(self) -> float:
        """Percent."""
        wall, own, all_of_us = (now - then for now, then in zip(self._now(), self.begin, strict=True))
        return max(0.0, 100 * (all_of_us - own) / (wall * (os.cpu_count() or 1)))

    def _now(self) -> tuple[float, float, float]:
        """Seconds: of the clock, of this process's work, of all processes' work."""
        words = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        idle = words[3] + words[4]
        own = os.times()
        worked = own.user + own.system + own.children_user + own.children_system
        return time.perf_counter(), worked, (sum(words) - idle) / os.sysconf("SC_CLK_TCK")


def timed(step: Callable[[], Any], device: str) -> float:
    """Seconds of one call, with what it leaves for a GPU to do."""
    begin = time.perf_counter()
    step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def resident() -> float:
    """MB of this process that are no file's."""
    return _status("RssAnon")


def _status(key: str) -> float:
    """A line of the kernel's account of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 2**10


def alone(quick: bool, function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a process of its own, so that no side has another's allocator, threads or settings.

    It is forked from one that has imported torch and done nothing else.
    """
    if quick:
        return function(*args)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


def machine(device: str) -> dict[str, Any]:
    """Where figures come from."""
    from fewshot.engine.runtime import describe

    return {"device": describe(torch.device(device)), "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__}


def report(name: str, args: argparse.Namespace, rows: Sequence[Row], words: str = "", **more: Any) -> None:
    """Print the table; write it and where it comes from to --json. words: further ones of the command."""
    from fewshot.engine.durable import replace

    flags = [
        " --quick" if args.quick else "",
        " --goals" if args.goals else "",
        f" --device {args.device}" if args.device != "cpu" else "",
        f" {words}" if words else "",
    ]
    figures = {"bench": name, "command": f"python scripts/bench/{name}.py{''.join(flags)}", **more, "rows": list(rows),
               "date": date.today().isoformat(), "machine": machine(args.device)}  # fmt: skip
    print(f"\n{name}: {figures['machine']}, {figures['command']}\n{table(rows)}")
    if args.json:
        replace(args.json, (json.dumps(figures, indent=1) + "\n").encode())


def table(rows: Sequence[Row]) -> str:
    """Markdown; the columns are those of all rows in their order, what a row lacks is a dash."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *[[text(row.get(column)) for column in columns] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in [padded[0], ["-" * w for w in widths], *padded[1:]])


def text(value: Any) -> str:
    """Three digits that count; large numbers whole."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(map(text, value))
    if isinstance(value, bool | str | int):
        return f"{value:,}".replace(",", " ") if isinstance(value, int) and value >= 10_000 else str(value)
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 100 else f"{value:.3g}"


@cache
def missing(package: str) -> bool:
    """Whether a peer is not installed; says so once, in one line, and its columns stay empty."""
    from importlib.util import find_spec

    absent = find_spec(package) is None
    if absent:
        words = "jax" if package == "jax" else "-e '.[bench]'"  # jax: 100 MB, or gigabytes with its CUDA
        print(f"{package} is not installed, its columns stay empty: uv pip install {words}")
    return absent


def largest_difference(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Over parameter tensors: |difference| / max(|g of the tensor|, 1e-3 |g of all|), as `fewshot check` has it."""
    from fewshot.gradcheck import differences

    def named(arrays: Sequence[Any]) -> Mapping[str, torch.Tensor]:
        return {str(i): torch.from_numpy(array).double() for i, array in enumerate(arrays)}

    return max(differences(named(ours), named(theirs)).values())
