"""Questions to a person at a terminal."""

from __future__ import annotations

import sys

from dstack.cli.interrupts import has_terminal


def agreed(question: str) -> bool:
    """Whether the person says yes; False where there is nobody to ask."""
    return asked(f"{question} [y/N] ").lower() in ("y", "yes")


def asked(question: str) -> str:
    """What the person types; empty where there is nobody to ask."""
    if not has_terminal():
        return ""
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip()
