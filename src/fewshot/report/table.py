"""A table of a report, once for the terminal, Markdown, LaTeX and HTML: cells are text. Layer 5."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from fewshot import text
from fewshot.metrics import Mean

NONE = "–"


# Columns that hold words; all others hold numbers, which are set flush right.
WORDS = {"algorithm", "run", "data", "network", "source", "task", "status", "step", "why", "folder", "what", "value",
         "runs", "better", "other", "told apart"}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """columns, and rows of as many cells. shared: column -> what would stand in every row, and is left out of them.

    strong: (row, column) of the cells that are set in bold.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    shared: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    strong: frozenset[tuple[int, int]] = frozenset()

    @property
    def words(self) -> list[bool]:
        """Of each column: whether it holds words."""
        return [column in WORDS for column in self.columns]

    @property
    def caption(self) -> str:
        """`In all rows: ways 5, shots 1.`, and the note in a line of its own."""
        shared = ", ".join(f"{column} {value}" for column, value in self.shared.items())
        return "\n".join(filter(None, [f"In all rows: {shared}." if shared else "", self.note]))


def condensed(
    columns: Mapping[str, Sequence[str]],
    *,
    always: Collection[str],
    note: str = "",
    strong: Mapping[str, Sequence[bool]] = {},
) -> Table:
    """A table without needless columns: those without values go, those with one value in all rows become `shared`.

    always: columns that stay in the table even if all their values are the same. strong: of a column's cells, which
    are set in bold.
    """
    filled = {name: cells for name, cells in columns.items() if any(cell != NONE for cell in cells)}
    shared = {name: cells[0] for name, cells in filled.items() if name not in always and len(set(cells)) == 1}
    kept = {name: cells for name, cells in filled.items() if name not in shared}
    bold = frozenset((row, c) for c, name in enumerate(kept) for row, yes in enumerate(strong.get(name, ())) if yes)
    return Table(list(kept), list(zip(*kept.values(), strict=True)), shared, note, bold)


def number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def accuracy(value: float | None, ci95: float | None, digits: int = 2) -> str:
    """`98.61 ± 0.21`."""
    return number(value, digits) if ci95 is None else f"{number(value, digits)} ± {number(ci95, digits)}"


def points(difference: Mean) -> str:
    """`13.2 ± 1.1`, for a sentence."""
    return accuracy(difference.value, difference.ci95, 1)


def markdown(table: Table) -> str:
    """A Markdown table; what Markdown would obey is escaped."""
    rule = ["---" if words else "---:" for words in table.words]
    rows = _written(table, text.markdown, "**{}**")
    lines = [[text.markdown(column) for column in table.columns], rule, *rows]
    drawn = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{drawn}\n{text.markdown(table.caption)}\n" if table.caption else drawn


def latex(table: Table) -> str:
    """A tabular with the rules of the package booktabs; its caption above it as a comment."""
    comment = "".join(f"% {text.latex(line)}\n" for line in table.caption.split("\n") if line)
    letters = "".join("l" if words else "r" for words in table.words)
    head = " & ".join(text.latex(column) for column in table.columns)
    rows = "".join(f"{' & '.join(row)} \\\\\n" for row in _written(table, text.latex, r"\textbf{{{}}}"))
    return (
        f"{comment}\\begin{{tabular}}{{{letters}}}\n\\toprule\n{head} \\\\\n\\midrule\n"
        f"{rows}\\bottomrule\n\\end{{tabular}}\n"
    )


def _written(table: Table, escape: Callable[[str], str], bold: str) -> list[list[str]]:
    return [
        [bold.format(escape(cell)) if (i, c) in table.strong else escape(cell) for c, cell in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]
