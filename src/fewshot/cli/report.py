"""`fewshot report DIR...`: what runs reached, in the terminal and as files. Layer 6."""

from pathlib import Path
from typing import TYPE_CHECKING

from fewshot.cli.show import print_table, print_wrapped, terminal_width
from fewshot.cli.words import Words, writing
from fewshot.errors import InputError

if TYPE_CHECKING:
    from fewshot.report.page import Report
    from fewshot.report.tables import Table


def main(argv: list[str]) -> int:
    from fewshot.report import page, runs

    parser = Words("fewshot report", description="Tables, curves, pictures and paired comparisons of run folders.")
    parser.add_argument("paths", nargs="+", type=Path, help="run folders, or folders that hold them")
    parser.add_argument("--paired", action="store_true", help="insist on comparing two runs episode by episode")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="all columns of every run")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables")
    parser.add_argument("--html", type=Path, metavar="FILE", help="tables and pictures in one file")
    args = parser.parse_args(argv)
    report = page.Report(args.paths)
    if not report.runs and not report.jobs and not report.left_out:
        raise InputError(f"no runs below {', '.join(map(str, args.paths))}; fewshot train makes one")
    pair = _pair(report, insist=args.paired)
    _print(report, pair)
    for path, text in ((args.markdown, page.markdown), (args.html, page.html)):
        if path:
            content = text(report, pair)
            with writing(path):
                path.write_text(content, encoding="utf-8")
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    if args.csv:
        with writing(args.csv):
            runs.write_csv(report.runs, args.csv)
        print(f"{len(report.runs)} runs in {args.csv}")
    return 0


def _pair(report: "Report", *, insist: bool) -> str | None:
    """The paired difference, where it is asked for or there are just two runs that can be compared."""
    from fewshot.report.page import paired_line

    if not insist and len(report.finished) != 2:
        return None
    try:
        return paired_line(*report.pair())
    except InputError as error:
        if insist:
            raise
        return f"not compared in pairs: {error}"


def _print(report: "Report", pair: str | None) -> None:
    from fewshot.report import tables

    if report.groups:
        _print_table(tables.results(report.groups, report.names))
    if report.repeats:
        print(f"{report.repeats} runs repeat another's configuration and seed; the newest counts")
    for run, status, step, why, folder in report.unfinished.rows:
        print(f"{run}: {status}, step {step}\n  {why}\n  {folder}")
    for job in report.jobs:
        if job.failed and job.last_lines and job.last_lines[-1] not in (job.reason or ""):
            print(f"job {job.number} ends with (all of it in {job.log}):")
            print("\n".join(f"  {line}" for line in job.last_lines[-3:]))
    for line in report.warnings():
        print(line)
    print(report.summary())
    if pair:
        print(pair)


def _print_table(table: "Table") -> None:
    """As many columns as the terminal has room for, from the left; what all rows share and what is left out, below."""
    from rich.table import Table as RichTable
    from rich.text import Text

    count = columns_that_fit(table, terminal_width())
    drawn = RichTable(box=None, header_style="bold", pad_edge=False)
    for column, words in list(zip(table.columns, table.words, strict=True))[:count]:
        drawn.add_column(column, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in table.rows:
        drawn.add_row(*map(Text, row[:count]))
    print_table(drawn)
    if table.caption:
        print_wrapped(table.caption)
    if left_out := table.columns[count:]:
        print_wrapped(f"No room here for: {', '.join(left_out)} (a wider terminal, --markdown or --html has them).")


def columns_that_fit(table: "Table", width: int) -> int:
    """How many columns fit side by side, two blanks between them; at least two, and the first can wrap."""
    widths = [max(map(len, cells)) for cells in zip(table.columns, *table.rows, strict=True)]
    least = [min(widths[0], 24), *widths[1:]]
    fitting = [n for n in range(2, len(widths) + 1) if sum(least[:n]) + 2 * (n - 1) <= width]
    return max(fitting, default=min(2, len(widths)))
