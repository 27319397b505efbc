"""What the runner's log spares a reader, and a disk."""

from __future__ import annotations

import logging

from dstack.runner.__main__ import SAID_AGAIN_AFTER, Sparing


def test_a_line_comes_again_after_a_while_or_when_it_changes() -> None:
    now = 100.0
    sparing = Sparing(lambda: now)

    def passes(message: str, *args: object) -> bool:
        return sparing.filter(logging.LogRecord("dstack", logging.INFO, "", 0, message, args, None))

    assert passes("no server: %s", "refused")
    assert not passes("no server: %s", "refused")
    assert passes("logs wait: %s", "refused"), "another message"
    assert not passes("no server: %s", "refused")
    assert passes("no server: %s", "gone"), "another reason"
    now += SAID_AGAIN_AFTER - 1
    assert not passes("no server: %s", "gone")
    now += 1
    assert passes("no server: %s", "gone")
