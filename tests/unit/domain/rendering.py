"""Decisions as short strings, so that expected results can be written down as tables.

starting                                            the state alone changed
queued rejections=1 not_before=+1s | end 2 rejected fields that changed; effects after the bar
ignored, late, refused                              no transition
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from dstack.domain.lifecycle import (
    BeginAttempt,
    Decision,
    Effect,
    EndAttempt,
    Ignored,
    MarkPartial,
    Recall,
    Refused,
    Release,
    Signal,
    StopSiblings,
    TellDependents,
)

NOW = 1_700_000_000_000_000


def render(before: Any, decision: Decision[Any]) -> str:
    """`decision` on `before` in words: every field that differs is named, so an unexpected change shows."""
    if isinstance(decision, Refused):
        assert decision.why, "a refusal says why"
        return "refused"
    if isinstance(decision, Ignored):
        assert decision.why, "an answer says why"
        return "late" if decision.late else "ignored"
    after = decision.after
    words = [str(after.state)]
    for field in fields(after):
        value = getattr(after, field.name)
        if field.name != "state" and value != getattr(before, field.name):
            words.append(f"{field.name}={_value(field.name, value)}")
    effects = ", ".join(_effect(effect) for effect in decision.effects)
    return " ".join(words) + (f" | {effects}" if effects else "")


def _value(name: str, value: Any) -> str:
    if name == "not_before" and value is not None:
        return f"+{(value - NOW) / 1_000_000:g}s"
    return str(value)


def _effect(effect: Effect) -> str:
    match effect:
        case Signal(abort):
            return "signal abort" if abort else "signal stop"
        case Recall():
            return "recall"
        case BeginAttempt(number):
            return f"begin {number}"
        case EndAttempt(number, outcome):
            return f"end {number} {outcome}"
        case MarkPartial():
            return "partial"
        case StopSiblings():
            return "stop siblings"
        case TellDependents(outcome, over):
            return f"tell {outcome or 'nothing new'}{' over' if over else ''}"
        case Release(begin):
            return "begin" if begin else "skip"
