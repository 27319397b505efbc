"""What is stored beside a decision: who, when, why, and the event's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Facts:
    """What came with an event and is stored beside the decision. Times are microseconds UTC."""

    actor: str | None = None
    at: int | None = None
    """When the runner saw it; never after now."""
    detail: str | None = None
    signal: int | None = None
    oom: bool | None = None
    runner_id: UUID | None = None
    attempt_id: UUID | None = None
    log_length: int | None = None
    log_incomplete: bool | None = None
    packages: bytes | None = None
    """The digest of what its Python environment holds."""
    save_warnings: bytes | None = None
    """As `stored` keeps them; None where there are none."""
    why: str | None = None


NO_FACTS = Facts()


def event_name(event: object) -> str:
    """`SetupFailed` → `setup-failed`, the name in the events table."""
    return _name_of(type(event))


@cache
def _name_of(event: type) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", event.__name__).lower()
