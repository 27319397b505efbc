"""What commands take: a name, a run or `:TAG`, a time that lies back, a snapshot."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta

import click

from dstack.client.repository import find_root, identify
from dstack.client.sent import RepositoryRef
from dstack.client.sources import is_snapshot

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def given_name(text: str) -> str:
    """What names something. Empty it names nothing: often it stands for a variable of the shell that is not set."""
    if not text:
        raise click.BadParameter("it is empty; is a variable of the shell not set?")
    return text


def since(text: str) -> int:
    """Microseconds UTC of `90s`, `5m`, `2h`, `1d`, `1w` ago, or of an ISO 8601 date or time."""
    ago = re.fullmatch(r"(\d+)([smhdw])", text)
    if ago:
        return time.time_ns() // 1000 - timedelta(**{_UNITS[ago[2]]: int(ago[1])}) // timedelta(microseconds=1)
    try:
        # A time without a zone is the person's own.
        return round(datetime.fromisoformat(text).astimezone().timestamp() * 1e6)
    except ValueError:
        raise click.BadParameter(
            f"`{text}` is neither a duration such as 90s, 5m, 2h, 1d, nor a time such as 2022-07-01T12:00"
        ) from None


def moment(text: str | None) -> tuple[int | None, str | None]:
    """(time in microseconds UTC, snapshot) of what `--at` was given: one of them, or neither."""
    if text is None:
        return None, None
    return (None, text) if is_snapshot(text) else (since(text), None)


def run_or_tag(text: str) -> tuple[str | None, str | None]:
    """(run, tag) of `RUN` or `:TAG`."""
    if not text.startswith(":"):
        return text, None
    if len(text) == 1:
        raise click.UsageError("`:` alone is no tag; write :TAG")
    return None, text[1:]


def tag_name(text: str) -> str:
    """The tag that `TAG` or `:TAG` names."""
    plain, tag = run_or_tag(text)
    return tag or plain or ""


def run_and_job(run: str, job: str | None) -> tuple[str, str | None]:
    """The run and its job of `RUN JOB` and of `RUN/JOB`."""
    name, _, part = run.partition("/")
    if not name:
        return run, job
    if part and job and part != job:
        raise click.UsageError(f"two jobs were given: {part} and {job}")
    return name, part or job


def current_repository() -> RepositoryRef | None:
    """The repository the command is given in, None outside of one."""
    root = find_root()
    return identify(root) if root else None
