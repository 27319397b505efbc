"""Questions to a person at a terminal."""

from __future__ import annotations

import sys

from dstack.cli.errors import UserError
from dstack.cli.interrupts import has_terminal


def listed(names: list[str]) -> str:
    """The names, or the first of many, as a question tells them."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def agreed(question: str) -> bool:
    """Whether the person says yes; False where there is nobody to ask."""
    return asked(f"{question} [y/N] ").lower() in ("y", "yes")


def make_sure(question: str, *, not_done: str, left: str, hint: str) -> None:
    """Ask before something cannot be taken back. Raises UserError where the person says no (`left`), and where there is
    nobody to ask (`not_done`, such as "odd-cat-1 is not stopped"; `hint` is the command that does not ask)."""
    if not has_terminal():
        raise UserError(f"{not_done} without asking, and there is no terminal", hint)
    if not agreed(question):
        raise UserError(left, exit_code=1)


def asked(question: str) -> str:
    """What the person types; empty where there is nobody to ask."""
    if not has_terminal():
        return ""
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip()
