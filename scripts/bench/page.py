"""The tables of docs/speed.md and docs/scale.md, from docs/results/bench_*.json.

    python scripts/bench/page.py        (`make bench` ends with it)

A table `x` is written between the lines `<!-- bench: x -->` and `<!-- end of bench -->`, with the command, the machine
and the date of its file. A figure is in a file or in no table.
"""

import json
import re
from pathlib import Path

from measuring import table

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "docs" / "speed.md", ROOT / "docs" / "scale.md")
MARKED = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end of bench -->)", re.DOTALL)


def render(page: str, folder: Path = ROOT / "docs" / "results") -> str:
    """The page with every marked table as its file has it."""
    return MARKED.sub(lambda match: f"{match[1]}{block(folder / f'bench_{match[2]}.json')}{match[3]}", page)


def block(file: Path) -> str:
    """One table and where it comes from; nothing where it has not been measured yet."""
    if not file.exists():
        return ""
    figures = json.loads(file.read_text())
    machine, speed = figures["machine"], figures.get("speed")
    where = [
        f"`{figures['command']}`", f"{machine['device']}, {machine['cores']} cores", f"PyTorch {machine['torch']}",
        figures["date"], *([f"{speed['matrix'] / 1e9:.0f} GFLOP/s, {speed['copy'] / 1e9:.1f} GB/s"] if speed else []),
    ]  # fmt: skip
    return f"\n{table(figures['rows'])}\n{' · '.join(where)}\n"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render(page.read_text()))
