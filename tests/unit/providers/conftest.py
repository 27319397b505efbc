from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from dstack.providers import registry
from dstack.sdk.provider import JobSpec


@dataclass
class Context:
    files: set[str] = field(default_factory=set[str])
    args: tuple[str, ...] = ()
    run_name: str = "goose-1"
    workflow_name: str = "train"
    variables: dict[str, Any] = field(default_factory=dict[str, Any])

    def read_text(self, path: str) -> str | None:
        return "" if path in self.files else None


@pytest.fixture
def planned() -> Callable[..., JobSpec]:
    """The one job of a workflow's keys."""

    def plan(provider: str, keys: dict[str, Any], files: set[str] | None = None, args: tuple[str, ...] = ()) -> JobSpec:
        kind = registry()[provider]
        config = kind.Config.model_validate({"name": "train", "provider": provider, **keys})
        (job,) = kind().plan(config, Context(files or set(), args))
        return job

    return plan
