"""The `bash` provider: commands, one after another, in one shell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from dstack.providers.interpreter import Commands, InterpreterConfig, python_env
from dstack.sdk.provider import JobSpec, PlanContext, Provider


class BashConfig(InterpreterConfig):
    commands: Commands = Field(examples=["[./train.sh]"])


class BashProvider(Provider):
    name: ClassVar[str] = "bash"
    Config: ClassVar[type[BashConfig]] = BashConfig

    def plan(self, workflow: BashConfig, ctx: PlanContext) -> Sequence[JobSpec]:
        commands = tuple(command.rstrip("\n") for command in (*workflow.first_commands, *workflow.commands))
        return [JobSpec(commands=commands, python=python_env(workflow, ctx), **workflow.job(ctx))]
