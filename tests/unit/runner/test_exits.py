from __future__ import annotations

import pytest

from dstack.runner.executors.interface import Exit, exit_of


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (exit_of(0), "exit code 0"),
        (exit_of(2), "exit code 2"),
        (exit_of(127), "exit code 127"),
        (exit_of(128), "exit code 128"),
        (exit_of(137), "signal 9 SIGKILL (or exit code 137)"),
        (exit_of(137, oom=True), "signal 9 SIGKILL (or exit code 137), out of memory"),
        (exit_of(139), "signal 11 SIGSEGV (or exit code 139)"),
        (exit_of(143), "signal 15 SIGTERM (or exit code 143)"),
        (exit_of(255), "exit code 255"),
        (exit_of(127, detail="the program 'x' was not found"), "the program 'x' was not found"),
        (exit_of(None), "the process is gone and its exit code was not recorded"),
    ],
)
def test_an_end_in_words(end: Exit, sentence: str) -> None:
    assert end.sentence() == sentence
