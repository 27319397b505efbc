from __future__ import annotations

from dstack.workflows import Diagnostic, render


def test_the_caret_stands_under_the_column_behind_tabs_and_wide_letters() -> None:
    diagnostic = Diagnostic("error", "f.yaml", 2, 4, "no", "\t訓e\u0301x")

    assert render(diagnostic) == "f.yaml:2:4: no\n    \t訓e\u0301x\n    \t   ^"


def test_nothing_reaches_the_terminal_that_it_would_obey() -> None:
    diagnostic = Diagnostic("error", "\x1b[31mf", 1, 1, "\x07bell", "\x1b]0;title\x07", "\u202eright to left")

    rendered = render(diagnostic)

    assert not {"\x1b", "\x07", "\u202e"} & set(rendered)


def test_a_warning_says_so_and_an_argument_has_no_caret() -> None:
    assert render(Diagnostic("warning", None, None, None, "odd", "--x")) == "command line: warning: odd\n    --x"
