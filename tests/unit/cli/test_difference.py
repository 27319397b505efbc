"""How a difference is shown in a terminal: coloured, and without what would move the cursor."""

from __future__ import annotations

import io
import sys

import pytest

from dstack.cli import difference
from dstack.client.api import Api


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Server(Api):
    """Has one run with these changes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def run(self, name: str) -> dict[str, str]:  # pyright: ignore[reportIncompatibleMethodOverride] - enough of a run
        return {"name": name, "commit": "0123456789abcdef", "branch": "main"}

    def diff(self, name: str) -> str:
        return self._text


def shown(monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """What a terminal gets."""
    monkeypatch.setenv("TERM", "xterm")
    made = Terminal()
    monkeypatch.setattr(sys, "stdout", made)
    difference.show_difference(Server(text), "odd-cat-1")
    return made.getvalue()


TEXT = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-old\n+new\x1b[2J\r\n same\n"


def test_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert shown(monkeypatch, TEXT) == (
        "\x1b[1mdiff --git a/x b/x\x1b[0m\n\x1b[1m--- a/x\x1b[0m\n\x1b[1m+++ b/x\x1b[0m\n"
        "\x1b[36m@@ -1 +1 @@\x1b[0m\n\x1b[31m-old\x1b[0m\n\x1b[32m+new^[[2J^M\x1b[0m\n same\n"
    )


def test_in_a_terminal_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown(monkeypatch, "-a\n+\x1b\n") == "-a\n+^[\n"


def test_elsewhere_it_is_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    difference.show_difference(Server(TEXT), "odd-cat-1")
    assert out.getvalue() == TEXT
