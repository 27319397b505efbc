"""The `python` provider: one script and its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from dstack.providers.script import Script, ScriptConfig, script_job
from dstack.sdk.provider import CommandLine, JobSpec, PlanContext, Provider


class PythonConfig(ScriptConfig):
    python_script: Script | None = Field(default=None, description="The oldest name of `script`.")


class PythonProvider(Provider):
    name: ClassVar[str] = "python"
    Config: ClassVar[type[PythonConfig]] = PythonConfig
    accepts_args: ClassVar[bool] = True
    command_line: ClassVar[CommandLine | None] = CommandLine("python FILE [ARGUMENTS]", "script", split=True)

    def plan(self, workflow: PythonConfig, ctx: PlanContext) -> Sequence[JobSpec]:
        return [script_job(workflow, ctx)]
