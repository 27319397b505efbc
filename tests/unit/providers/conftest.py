from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from dstack.providers import registry
from dstack.sdk.provider import JobSpec


@dataclass
class Context:
    files: set[str] | None = None
    """Of the code; None: whatever script is asked for is there."""
    args: tuple[str, ...] = ()
    run_name: str = "goose-1"
    workflow_name: str = "train"
    variables: dict[str, Any] = field(default_factory=dict[str, Any])

    places: dict[tuple[str | int, ...], str] = field(default_factory=dict[tuple[str | int, ...], str])
    """Where values stand."""
    warnings: list[tuple[str, tuple[str | int, ...]]] = field(default_factory=list[tuple[str, tuple[str | int, ...]]])

    def read_text(self, path: str) -> str | None:
        return "" if path in (self.files or ()) else None

    def exists(self, path: str) -> bool:
        return self.files is None or any(f"{file}/".startswith(f"{path}/") for file in self.files)

    def near(self, path: str) -> str:
        return min(self.files or (), default="")

    def excluded(self, path: str) -> str:
        return ""

    def position(self, at: tuple[str | int, ...]) -> str:
        return self.places.get(at, "")

    def warn(self, message: str, *, at: tuple[str | int, ...] = (), hint: str = "") -> None:
        self.warnings.append((message, at))


@pytest.fixture
def planned() -> Callable[..., JobSpec]:
    """The one job of a workflow's keys."""

    def plan(provider: str, keys: dict[str, Any], files: set[str] | None = None, args: tuple[str, ...] = ()) -> JobSpec:
        kind = registry()[provider]
        config = kind.Config.model_validate({"name": "train", "provider": provider, **keys})
        (job,) = kind().plan(config, Context(files, args))
        return job

    return plan
