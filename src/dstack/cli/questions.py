"""Questions to a person at a terminal."""

from __future__ import annotations

import sys

from dstack.cli.interrupts import has_terminal


def listed(names: list[str]) -> str:
    """The names, or the first of many, as a question tells them."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


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
