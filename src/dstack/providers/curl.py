"""The `curl` provider: one download, kept as an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field, model_validator

from dstack.sdk.config import WorkflowConfig
from dstack.sdk.fields import RelativePath, Text, wrong
from dstack.sdk.provider import CommandLine, JobSpec, PlanContext, Provider


class CurlConfig(WorkflowConfig):
    url: Text = Field(description="What to download.", examples=["https://example.com/data.tar.gz"])
    output: RelativePath = Field(
        description="The file to write, in one of the `artifacts`.", examples=["data/data.tar.gz"]
    )

    @model_validator(mode="after")
    def _is_kept(self) -> Self:
        if not any(self.output.startswith(f"{artifact.path}/") for artifact in self.artifacts):
            folder = self.output.rpartition("/")[0]
            hint = f"add `artifacts: [{folder}]`" if folder else f"write it into a folder, such as `data/{self.output}`"
            raise wrong(f"`{self.output}` lies in none of the `artifacts`, and would be lost", hint, ("output",))
        return self


class CurlProvider(Provider):
    name: ClassVar[str] = "curl"
    Config: ClassVar[type[CurlConfig]] = CurlConfig
    command_line: ClassVar[CommandLine | None] = CommandLine(
        "curl URL -o FILE -a FOLDER",
        "url",
        {"-o": "output", "--output": "output", "-a": "artifacts", "--artifact": "artifacts"},
        lists=frozenset({"artifacts"}),
    )

    def plan(self, workflow: CurlConfig, ctx: PlanContext) -> Sequence[JobSpec]:
        options = ("--fail", "--location", "--no-progress-meter", "--create-dirs")
        argv = ("curl", *options, "--output", workflow.output, "--url", workflow.url)
        return [JobSpec(argv=argv, **workflow.job(ctx))]
