"""Which secrets and callers' values a step's jobs are given, and whether there are such."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from dstack.sdk.provider import CALLERS, JobSpec, secret_marker
from dstack.sdk.scalars import text_of
from dstack.workflows.checking import Path, Subject, blame
from dstack.workflows.diagnostics import Report
from dstack.workflows.nodes import MapNode, expression_position
from dstack.workflows.secrets import COMMANDS, ENVIRONMENTS, SecretUse, uses, variable


class Known(NamedTuple):
    """The names of the repository's secrets, and of the values that were submitted; None: not to be checked."""

    secrets: Collection[str] | None = None
    values: Collection[str] | None = None


class Delivery:
    def __init__(self, known: Known, report: Report) -> None:
        self._secrets, self._values = known
        self._report = report

    def give(self, subject: Subject, jobs: Sequence[JobSpec], *, uses_secrets: bool) -> tuple[JobSpec, ...]:
        """`jobs` with the variables that their commands refer to; reports names that nothing is known of."""
        found = list(uses(subject.node)) if uses_secrets and isinstance(subject.node, MapNode) else []
        in_commands = dict.fromkeys(use.name for use in found if use.key in COMMANDS)
        given = tuple([_with_secrets(job, in_commands) for job in jobs]) if in_commands else tuple(jobs)
        places: dict[str, list[SecretUse]] = {}
        for use in found:
            places.setdefault(use.name, []).append(use)
        asked = dict.fromkeys(name for job in given for name in job.secrets)
        self._check_values(subject, [name.removeprefix(CALLERS) for name in asked if name.startswith(CALLERS)])
        for name in asked:
            if not name.startswith(CALLERS):
                self._check_secret(subject, name, places.get(name, ()))
        return given

    def _check_secret(self, subject: Subject, name: str, places: Sequence[SecretUse]) -> None:
        if self._secrets is None or name in self._secrets:
            return
        message = f"there is no secret `{name}`"
        hint = self._report.near(name, self._secrets) or f"add it with `dstack secrets add {name}`"
        for use in places:
            at = expression_position(subject.source, use.node, use.place.ordinal, use.place.offset)
            self._report.error(subject.source, at, message, hint)
        if not places:
            blame(subject, ("environment",), message, hint, self._report)

    def _check_values(self, subject: Subject, names: Sequence[str]) -> None:
        if self._values is None:
            return
        missing = {name: None for name in names if name not in self._values}
        for name, path in _places(subject.data, missing) if missing else ():
            hint = f"export it, give it with `-e {name}=VALUE`, or write `{name}=` for an empty value"
            blame(subject, path, f"`{name}` is not set in your shell", hint, self._report)


def _places(data: dict[str, Any], names: Collection[str]) -> Iterator[tuple[str, Path]]:
    """Where a workflow takes the caller's `names`."""
    for key in sorted(ENVIRONMENTS):
        value = data.get(key)
        if isinstance(value, list):
            items = cast("list[Any]", value)
            written = ((index, text_of(item)) for index, item in enumerate(items))
            yield from ((name, (key, index)) for index, name in written if name in names)
        elif isinstance(value, dict):
            yield from ((name, (key, name)) for name in names if name in value)


def _with_secrets(job: JobSpec, names: Collection[str]) -> JobSpec:
    environment = {**job.environment, **{variable(name): secret_marker(name) for name in names}}
    return msgspec.structs.replace(job, environment=environment, secrets=tuple(dict.fromkeys((*job.secrets, *names))))
