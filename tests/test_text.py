"""What others wrote stays text in a spreadsheet, in Markdown and in LaTeX."""

import pytest

from fewshot import text


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("-2+3", "'-2+3"), ("-2.5", "-2.5"), ("+1e3", "+1e3"),
        ("\uff1d1", "'\uff1d1"),
        ("plain", "plain"), ("\tx", "\\tx"), ("a\x1b[31m", "a\\x1b[31m"), (-1.5, -1.5), (None, None),
    ],
)  # fmt: skip
def test_a_cell_of_a_spreadsheet_is_no_formula(value: object, cell: object) -> None:
    assert text.csv_cell(value) == cell


def test_latex() -> None:
    assert text.latex("a_b $x$ 50 % \\d ±") == r"a\_b \$x\$ 50 \% \textbackslash{}d $\pm$"


def test_markdown() -> None:
    assert text.markdown("<b>|*x* conv4_32 _y_ [z](u) `c`") == "&lt;b>\\|\\*x\\* conv4_32 \\_y\\_ \\[z\\](u) \\`c\\`"


def test_long_names_keep_both_ends() -> None:
    assert text.shortened("abcdefghij", 10) == "abcdefghij"
    assert text.shortened("abcdefghijk", 10) == "abcde…hijk"


def test_chinese_takes_two_columns_and_accents_none() -> None:
    assert [text.columns(word) for word in ("ab", "漢字", "e\u0301")] == [2, 4, 1]
