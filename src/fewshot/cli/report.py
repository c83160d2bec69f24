"""`fewshot report DIR...`: what runs reached, in the terminal and as files. Layer 6."""

from typing import TYPE_CHECKING

from fewshot.cli.show import print_table, print_wrapped, terminal_width
from fewshot.cli.words import Words, path, write
from fewshot.errors import InputError
from fewshot.printable import printable

if TYPE_CHECKING:
    from fewshot.report.report import Report
    from fewshot.report.table import Table

FILES = {
    "csv": "all of every run: what it reached, the settings that differ, its protocol",
    "markdown": "the tables",
    "latex": "the table of algorithms and tasks, for a paper",
    "html": "tables and pictures in one file",
}


def main(argv: list[str]) -> int:
    from fewshot.report.report import Report

    parser = Words("fewshot report", description="Tables, curves, pictures and paired comparisons of run folders.")
    parser.add_argument("paths", nargs="+", type=path, help="run folders, or folders that hold them")
    parser.add_argument("--paired", action="store_true", help="insist on comparing two runs episode by episode")
    for kind, what in FILES.items():
        parser.add_argument(f"--{kind}", type=path, metavar="FILE", help=what)
    parser.add_argument("--figures", action="store_true", help="draw each finished run's figures again, in its folder")
    args = parser.parse_args(argv)
    report = Report(args.paths)
    if not report.runs and not report.jobs and not report.left_out:
        raise InputError(f"no runs below {', '.join(map(printable, args.paths))}; fewshot train makes one")
    two_seeds = len(report.finished) == 2 and len(report.groups) == 1
    pair = _pair(report) if args.paired or two_seeds else None
    _print(report)
    if pair:
        print_wrapped(pair)
    for kind in FILES:
        if file := getattr(args, kind):
            content = _content(report, kind)
            write(file, content)
            print(f"{printable(file)}: {len(content.encode()) / 1000:.0f} kB")
    if args.figures:
        _draw_again(report)
    return 0


def _draw_again(report: "Report") -> None:
    """What a kill or a full disk has left out at the end of a run."""
    from fewshot.report.figures import draw_finished
    from fewshot.run_folder import RunFolder

    for run in report.finished:
        draw_finished(RunFolder(run.path))
    print(f"figures of {len(report.finished)} runs drawn")


def _content(report: "Report", kind: str) -> str:
    from fewshot.report import documents, page

    made = {"csv": lambda report: documents.csv_file(report.runs), "markdown": documents.markdown,
            "latex": documents.latex, "html": page.html}  # fmt: skip
    return made[kind](report)


def _pair(report: "Report") -> str:
    """`A minus B: +1.20 ± 0.35 points over the same 600 episodes: the first is better`."""
    from fewshot.report.comparison import paired
    from fewshot.report.groups import Group

    if len(report.finished) != 2:
        raise InputError(f"--paired needs two finished runs; there are {len(report.finished)}; give two folders")
    a, b = report.finished
    difference = paired(Group([a]), Group([b]))
    over = f"points over the same {a.result['test']['episodes']} episodes"
    said = f"{printable(a.path)} minus {printable(b.path)}: {difference.value:+.2f} ± {difference.ci95:.2f} {over}"
    if abs(difference.value) <= difference.ci95:
        return f"{said}: no difference can be told"
    return f"{said}: the {'first' if difference.value > 0 else 'second'} is better"


def _print(report: "Report") -> None:
    """The finding last, where the eye ends."""
    from fewshot.report import tables
    from fewshot.report.table import NONE

    if report.groups:
        _print_table(tables.results(report.groups, report.names, report.marks))
    if report.repeats:
        print(f"{report.repeats} runs repeat another's configuration and seed; the newest counts")
    for run, status, step, why, folder in report.unfinished.rows:
        print(printable(f"{run}: {status}" + (f", step {step}" if step != NONE else "")))
        for line in (why, folder):
            if line != NONE and status != "waiting":
                print(f"  {printable(line)}")
    for job in report.jobs:
        if job.failed and job.last_lines and job.last_lines[-1] not in (job.reason or ""):
            print(printable(f"job {job.number} ends with (all of it in {job.log}):"))
            print("\n".join(f"  {printable(line)}" for line in job.last_lines[-3:]))
    for line in report.warnings():
        print(line)
    print_wrapped(report.summary())
    if report.groups:
        if report.method:
            print_wrapped(report.method)
        print()
        for sentence in filter(None, [*report.details, report.below_pixels, report.headline]):
            print_wrapped(printable(f"{sentence}."))


def _print_table(table: "Table") -> None:
    """As many columns as the terminal has room for, from the left; what all rows share and what is left out, below."""
    from rich.table import Table as RichTable
    from rich.text import Text

    count = columns_that_fit(table, terminal_width())
    drawn = RichTable(box=None, header_style="bold", pad_edge=False)
    for column, words in list(zip(table.columns, table.words, strict=True))[:count]:
        drawn.add_column(column, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for r, row in enumerate(table.rows):
        cells = [Text(printable(cell), "bold" if (r, c) in table.strong else "") for c, cell in enumerate(row[:count])]
        drawn.add_row(*cells)
    print_table(drawn)
    if table.caption:
        print_wrapped("\n".join(map(printable, table.caption.split("\n"))))
    if left_out := table.columns[count:]:
        print_wrapped(f"No room here for: {', '.join(left_out)} (a wider terminal, --markdown or --html has them).")


def columns_that_fit(table: "Table", width: int) -> int:
    """How many columns fit side by side, two blanks between them; at least two, and the first can wrap."""
    widths = [max(map(len, cells)) for cells in zip(table.columns, *table.rows, strict=True)]
    least = [min(widths[0], 24), *widths[1:]]
    fitting = [n for n in range(2, len(widths) + 1) if sum(least[:n]) + 2 * (n - 1) <= width]
    return max(fitting, default=min(2, len(widths)))
