"""Words for people."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from dstack.cli import render
from dstack.cli.errors import error_text
from dstack.cli.render import ago, diagnostics_text, duration, plain_table, say, size_words, status_colour, write_table

NOW = 1_700_000_000


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "now"),
        (5, "5 seconds ago"),
        (60, "a minute ago"),
        (150, "2 minutes ago"),
        (3600, "an hour ago"),
        (7300, "2 hours ago"),
        (86400, "a day ago"),
        (3 * 86400, "3 days ago"),
        (-100, "now"),
    ],
)
def test_ago(seconds: int, words: str) -> None:
    assert ago((NOW - seconds) * 10**6, NOW) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.42, "0.42 s"), (12, "12 s"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (2.51, "2.5 s"), (-3, "0.00 s")],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(NOW * 10**6, int((NOW + seconds) * 10**6)) == words


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0B"), (900, "900B"), (1536, "1.5KiB"), (16 << 30, "16GiB"), (3 << 40, "3.0TiB")]
)
def test_size(size: int, words: str) -> None:
    assert size_words(size) == words


def test_a_diagnostic_points_at_its_column() -> None:
    text = diagnostics_text(
        [
            {
                "severity": "error",
                "file": ".dstack/workflows.yaml",
                "line": 3,
                "column": 6,
                "message": "unknown key `provder`",
                "source": "\t    provder: python",
                "hint": "did you mean `provider`?",
            },
            {"severity": "warning", "file": "a.yaml", "line": 1, "column": 1, "message": "old", "source": None},
            {"severity": "error", "file": None, "message": "unknown option --x", "hint": None},
        ]
    )
    assert text == (
        ".dstack/workflows.yaml:3:6: unknown key `provder`\n"
        "    \t    provder: python\n"
        "    \t    ^\n"
        "  hint: did you mean `provider`?\n"
        "a.yaml:1:1: warning: old\n"
        "error: unknown option --x\n"
    )


def test_a_table_is_aligned_and_never_wrapped() -> None:
    assert plain_table(["A", "LONG"], [["x" * 200, "1"], ["y", ""]]) == (
        "A" + " " * 201 + "LONG\n" + "x" * 200 + "  1\n" + "y\n"
    )


@pytest.mark.parametrize(
    ("colour", "states"),
    [
        ("yellow", ["planning", "waiting", "queued", "assigned", "starting"]),
        ("green", ["running", "saving"]),
        ("red", ["failed"]),
        ("grey", ["done", "stopped", "skipped"]),
    ],
)
def test_every_state_has_its_colour(colour: str, states: list[str]) -> None:
    for state in states:
        assert status_colour({"status": state}) == colour, state
        ended = colour in ("red", "grey")
        assert status_colour({"status": state, "stopping": True}) == (colour if ended else "yellow"), state


@pytest.mark.parametrize("columns", [80, 60, 40, 10])
def test_no_name_is_broken_in_a_narrow_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render, "is_coloured", lambda _: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    row = ["a-job", "strong-cheetah-1", "Failed: train exited with code 3", "latest"]
    write_table(["JOB", "RUN", "STATUS", "TAG"], [row, row])
    out = capsys.readouterr().out
    assert out.count("strong-cheetah-1") == out.count("a-job") == 2


@pytest.mark.parametrize("no_color", ["", "1"])
def test_the_status_is_coloured_in_a_terminal_unless_it_is_not_wanted(
    no_color: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", no_color)
    shown, terminal = pty.openpty()
    with open(terminal, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        write_table(["RUN", "STATUS"], [["calm-crab-1", "Running..."]], ["green"])
        text = os.read(shown, 4096).decode()
    os.close(shown)
    assert ("\x1b[32mRunning...\x1b[0m" in text) == (not no_color)
    assert ("\x1b" in text) == (not no_color)
    assert "Running..." in text


def test_nothing_of_a_file_reaches_the_terminal_that_it_would_obey() -> None:
    evil = "\x1b]0;title\x07\u202ebidi\x9b31m"

    text = diagnostics_text(
        [
            {
                "severity": "error",
                "file": f"a{evil}.yaml",
                "line": 1,
                "column": 3,
                "message": evil,
                "source": evil,
                "hint": evil,
            }
        ]
    )

    assert not set(text) & {"\x1b", "\x07", "\u202e", "\x9b"}


def test_no_name_reaches_the_terminal_that_it_would_obey(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "\x1b]0;title\x07\u202ebidi\x9b31m\udcff"
    monkeypatch.setattr(render, "is_coloured", lambda stream: stream is sys.stderr)

    say(f"\x1b[32mours\x1b[0m {evil}")
    write_table(["NAME"], [[evil]])
    text = error_text(evil, evil).removeprefix("\x1b[31merror:\x1b[0m")
    shown = capsys.readouterr()

    assert shown.err.startswith("\x1b[32mours\x1b[0m \N{REPLACEMENT CHARACTER}]0;title")
    for said in (shown.err[len("\x1b[32mours\x1b[0m") :], shown.out, text):
        assert "title" in said
        assert not set(said) & {"\x1b", "\x07", "\u202e", "\x9b", "\udcff"}


def test_json_of_what_no_encoding_has() -> None:
    """A name that is not UTF-8, or a letter that standard output does not know: the same value comes back."""
    value = {"target": "b\udcff", "path": "emoji-\N{DUCK} … é"}
    for encoding in ("utf-8", "latin-1", "ascii"):
        command = f"from dstack.cli.render import write_json; write_json({value!a})"
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, check=True)
        assert json.loads(done.stdout.decode(encoding)) == value


def test_the_caret_stands_behind_tabs_and_wide_letters() -> None:
    text = diagnostics_text(
        [{"severity": "error", "file": "f.yaml", "line": 2, "column": 4, "message": "no", "source": "\t訓e\u0301x"}]
    )

    assert text == "f.yaml:2:4: no\n    \t訓e\u0301x\n    \t   ^\n"


def test_a_place_behind_the_end_of_a_line_that_was_cut_has_no_caret() -> None:
    text = diagnostics_text(
        [{"severity": "error", "file": "f.yaml", "line": 1, "column": 900, "message": "no", "source": "x" * 200}]
    )

    assert "^" not in text
