"""Reasons: every map is total, and they agree with each other."""

from __future__ import annotations

import signal

import pytest

from dstack.domain import reasons
from dstack.domain.lifecycle.job import TERMINAL
from dstack.domain.reasons import Reason, cli_exit, of_exit, sentence

EXPECTED: dict[Reason, tuple[str, bool, int | None]] = {
    # end state, whether a policy may retry it, what the CLI exits with (None: the job's own code)
    Reason.EXIT_ZERO: ("done", False, 0),
    Reason.REUSED: ("done", False, 0),
    Reason.UPLOADED: ("done", False, 0),
    Reason.EXIT_CODE: ("failed", True, None),
    Reason.SIGNAL: ("failed", True, None),
    Reason.OOM: ("failed", True, None),
    Reason.TIMEOUT: ("failed", True, 124),
    Reason.UNKNOWN_EXIT: ("failed", True, 125),
    Reason.SETUP_FAILED: ("failed", False, 119),
    Reason.SETUP_TIMEOUT: ("failed", False, 119),
    Reason.NO_CAPACITY: ("failed", False, 120),
    Reason.RUNNER_REJECTED: ("failed", False, 120),
    Reason.RUNNER_LOST: ("failed", True, 120),
    Reason.PREEMPTED: ("failed", True, 120),
    Reason.ARTIFACT_SAVE: ("failed", False, 121),
    Reason.STOPPED: ("stopped", False, 122),
    Reason.ABORTED: ("stopped", False, 122),
    Reason.DEPENDENCY: ("skipped", False, 1),
    Reason.CONDITION: ("skipped", False, 1),
    Reason.INVALID: ("failed", False, 2),
    Reason.PLAN_TIMEOUT: ("failed", False, 2),
}


def test_every_map_is_total() -> None:
    for mapping in (reasons.END_STATE, reasons.MAY_RETRY, reasons.SENTENCE, reasons.CLI_EXIT, EXPECTED):
        assert set(mapping) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_the_maps(reason: Reason) -> None:
    assert (reasons.END_STATE[reason], reasons.MAY_RETRY[reason], reasons.CLI_EXIT[reason]) == EXPECTED[reason]
    assert reasons.END_STATE[reason] in TERMINAL


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("exit_code", [None, 1, 137])
def test_only_success_exits_with_zero(reason: Reason, exit_code: int | None) -> None:
    own = EXPECTED[reason][2]
    expected = own if own is not None else exit_code if exit_code is not None else 125
    assert cli_exit(reason, exit_code) == expected
    assert (cli_exit(reason, exit_code) == 0) == (reasons.END_STATE[reason] == "done")


@pytest.mark.parametrize(
    ("exit_code", "oom", "expected"),
    [
        (0, False, Reason.EXIT_ZERO),
        (0, True, Reason.EXIT_ZERO),  # a child was killed, the program coped
        (1, False, Reason.EXIT_CODE),
        (1, True, Reason.OOM),
        (128, False, Reason.EXIT_CODE),
        (137, False, Reason.SIGNAL),
        (137, True, Reason.OOM),
        (139, False, Reason.SIGNAL),
        (255, False, Reason.EXIT_CODE),
        (None, False, Reason.UNKNOWN_EXIT),
        (None, True, Reason.UNKNOWN_EXIT),
    ],
)
def test_of_exit(exit_code: int | None, oom: bool, expected: Reason) -> None:
    assert of_exit(exit_code, oom) is expected


def test_every_signal_is_told_both_ways() -> None:
    """128+n may be a program's own exit code as well: people hear both."""
    for item in signal.Signals:
        assert of_exit(128 + item, oom=False) is Reason.SIGNAL
        text = sentence(Reason.SIGNAL, exit_code=128 + item)
        assert text == f"ended by signal {item.value} ({item.name}) or exit code {128 + item}"


@pytest.mark.parametrize("reason", Reason)
def test_every_sentence_can_be_said_with_nothing_known(reason: Reason) -> None:
    text = sentence(reason)
    assert text
    assert "{" not in text
    assert sentence(reason, detail="what was seen") == f"{text}: what was seen"


def test_sentences_name_what_is_known() -> None:
    assert sentence(Reason.EXIT_CODE, exit_code=3) == "exited with code 3"
    assert sentence(Reason.STOPPED, actor="ada") == "stopped by ada"
    assert sentence(Reason.ABORTED) == "aborted by someone; nothing more was saved"
