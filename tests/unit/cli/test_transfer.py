"""The bar is drawn on a terminal and nowhere else; a large transfer says its rate and what was spared."""

from __future__ import annotations

import io
import signal
import sys

import pytest

from dstack.cli.transfer import Measured, transfer


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stderr", [Terminal(), io.StringIO()])
def test_a_bar_on_a_terminal(stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", stderr)
    with transfer("uploading", 4 << 20) as advance:
        advance(1 << 20)
        advance(3 << 20)
    shown = stderr.getvalue()
    assert ("uploading" in shown, "MiB" in shown) == ((True, True) if stderr.isatty() else (False, False))


def test_what_was_spared(capsys: pytest.CaptureFixture[str]) -> None:
    Measured().tell("uploaded", 8 << 20, 2 << 20, "is stored")
    Measured().tell("uploaded", 8 << 20, 8 << 20, "is stored")
    Measured().tell("uploaded", 100, 0, "is stored")
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("uploaded: 8MiB in ")
    assert "/s)" in first
    assert first.endswith(", 6MiB of it spared: equal content is stored once")
    assert "spared" not in second


@pytest.mark.parametrize("stderr", [Terminal(), io.StringIO()])
def test_a_total_is_found_out_for_a_bar_only(stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def total() -> int:
        asked.append(4 << 20)
        return 4 << 20

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", stderr)
    with transfer("uploading", total):
        pass
    assert len(asked) == (1 if stderr.isatty() else 0)


def test_a_bar_tells_what_was_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", stderr)
    with transfer("uploading", 16 << 20, lambda: 3 << 20, held=1 << 20) as advance:
        advance(4 << 20)
        assert "spared" not in stderr.getvalue()
        advance(12 << 20)
    assert "12MiB spared" in stderr.getvalue()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_that_end_a_program_let_it_clean_up(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as raised, transfer("copying", 1):
        signal.raise_signal(number)
    assert raised.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As for a program that is to outlive its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with transfer("copying", 1):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
