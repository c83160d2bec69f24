"""Text is shown; what a terminal would obey is written out."""

import os

from fewshot.printable import all_printable, printable


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert printable("\x1b]0;mine\x07\x1b[2J") == r"\x1b]0;mine\x07\x1b[2J"
    assert printable("a\nb\rc\t\u202e\u2028\x85") == r"a\nb\rc\t\u202e\u2028\x85"
    assert printable(os.fsdecode(b"l\xe4ufe")) == r"l\udce4ufe"
    for text in ("größe 中文 한국 ديوان क्ष", "$x_1$ [b] <i> & =1+1", "👩\u200d🔬 á"):
        assert printable(text) == text
    assert all_printable({"\x1b": ["\n", 1, None, {"a": "\x00"}]}) == {r"\x1b": [r"\n", 1, None, {"a": r"\x00"}]}
