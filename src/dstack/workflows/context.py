"""What a provider may look at while it plans: `dstack.sdk.provider.PlanContext`."""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dstack.workflows import patterns
from dstack.workflows.checking import Subject, blame, position
from dstack.workflows.diagnostics import Report
from dstack.workflows.patterns import Exclude

ReadText = Callable[[str], str | None]
Exists = Callable[[str], bool]
ListFiles = Callable[[], Sequence[str]]


@dataclass(frozen=True)
class Code:
    """The code that is shipped. What many workflows ask is kept."""

    read_text: ReadText
    exists: Exists | None
    list_files: ListFiles | None

    @functools.cached_property
    def files(self) -> Sequence[str]:
        return self.list_files() if self.list_files is not None else ()

    def leads_away(self, path: str) -> bool:
        """Whether a link stands on the way to `path`: what lies behind it is not looked at."""
        parts = path.split("/")
        return any("/".join(parts[:count]) in self._leaves for count in range(1, len(parts)))

    @functools.cached_property
    def _leaves(self) -> Collection[str]:
        return frozenset(self.files)

    @functools.cached_property
    def known(self) -> Exists:
        return functools.cache(self.exists) if self.exists is not None else lambda _: True


@dataclass(frozen=True, slots=True)
class Context:
    run_name: str
    workflow_name: str
    variables: Mapping[str, Any]
    args: Sequence[str]
    code: Code
    brought: Sequence[str] | None
    """Paths, from the root of the code, that dependencies bring; None: not all of them are known."""
    excludes: Sequence[Exclude]
    subject: Subject
    report: Report

    def read_text(self, path: str) -> str | None:
        return self.code.read_text(path)

    def exists(self, path: str) -> bool:
        if self.brought is None or any(
            f"{path}/".startswith(f"{folder}/") or folder.startswith(f"{path}/") for folder in self.brought
        ):
            return True
        return self.code.known(path) or self.code.leads_away(path)

    def near(self, path: str) -> str:
        name = posixpath.basename(path)
        # The same name in another folder says more than a similar name.
        same = [file for file in self.code.files if posixpath.basename(file) == name]
        return self.report.nearest(path, same) or next(iter(same), "") or self.report.nearest(path, self.code.files)

    def excluded(self, path: str) -> str:
        found = patterns.of(self.excludes, path)
        return f"`{found.pattern}` in {found.place}" if found is not None else ""

    def position(self, at: tuple[str | int, ...]) -> str:
        return position(self.subject, at)

    def warn(self, message: str, *, at: tuple[str | int, ...] = (), hint: str = "") -> None:
        blame(self.subject, at, message, hint, self.report, "warning")
