"""A repository's `.dstack` files in memory, and what tags point at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from dstack.providers import registry
from dstack.workflows import Diagnostic, Invalid, PlannedStep, ReusedInput, RunPlan, UnknownTag, Workflows, load, plan


@dataclass
class Project:
    """Files, tags and finished runs, as a server would hand them in."""

    workflows_yaml: str
    variables_yaml: str | None = None
    files: set[str] = field(default_factory=set[str])
    tags: dict[tuple[str | None, str], list[ReusedInput]] = field(default_factory=dict)
    newest: dict[str, list[ReusedInput]] = field(default_factory=dict)
    asked: list[tuple[str | None, str]] = field(default_factory=list)

    def texts(self) -> dict[str, str]:
        texts = {".dstack/workflows.yaml": self.workflows_yaml}
        if self.variables_yaml is not None:
            texts[".dstack/variables.yaml"] = self.variables_yaml
        return texts

    def load(self) -> Workflows:
        return load(self.texts(), registry())

    def plan(self, name: str, *args: str, **known: Any) -> RunPlan:
        return plan(
            self.load(),
            name,
            args,
            run_name="goose-1",
            read_text=lambda path: "" if path in self.files else None,
            resolve_tag=self.resolve_tag,
            newest_done=self.newest_done,
            **known,
        )

    def steps(self, name: str, *args: str) -> Mapping[str, PlannedStep]:
        return {step.name: step for step in self.plan(name, *args).steps}

    def wrong(self, name: str = "train", *args: str, **known: Any) -> list[Diagnostic]:
        """The errors of loading and planning."""
        with pytest.raises(Invalid) as caught:
            self.plan(name, *args, **known)
        return [diagnostic for diagnostic in caught.value.diagnostics if diagnostic.severity == "error"]

    def resolve_tag(self, workflow: str | None, tag: str) -> list[ReusedInput]:
        self.asked.append((workflow, tag))
        if (workflow, tag) not in self.tags:
            raise UnknownTag([name for of, name in self.tags if of == workflow])
        return self.tags[workflow, tag]

    def newest_done(self, workflow: str) -> list[ReusedInput]:
        self.asked.append((workflow, ""))
        if workflow not in self.newest:
            raise UnknownTag
        return self.newest[workflow]


@pytest.fixture
def project() -> Callable[..., Project]:
    return Project


@pytest.fixture
def artifact() -> Callable[..., ReusedInput]:
    """An artifact of an earlier run; equal `content` means equal bytes."""

    def make(path: str, content: str = "a", *, workflow: str = "prepare", partial: bool = False) -> ReusedInput:
        content_id = content.encode().ljust(32, b"\0")
        return ReusedInput(path, content_id, content_id, f"run-{content}", workflow, workflow, None, partial)

    return make
