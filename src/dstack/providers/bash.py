"""The `bash` provider: commands, one after another, in one shell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from dstack.providers.interpreter import Commands, InterpreterConfig, Ports, python_env
from dstack.sdk.provider import CommandLine, JobSpec, PlanContext, Provider, all_of


class BashConfig(InterpreterConfig):
    commands: Commands = Field(
        description="What to run: a list of commands, or one text of several lines. One shell runs them, and ends with "
        "the first that fails; in a pipe any of its programs may be that.",
        examples=["[./train.sh]"],
    )
    ports: Ports = Field(
        default=(),
        description="How many network ports it is given, or a list of the very ports; it finds them in "
        "`JOB_PORT_0` and so on.",
        examples=["1"],
    )


class BashProvider(Provider):
    name: ClassVar[str] = "bash"
    Config: ClassVar[type[BashConfig]] = BashConfig
    command_line: ClassVar[CommandLine | None] = CommandLine(
        "bash -c COMMAND [-p PORTS]",
        options={"-c": "commands", "--command": "commands", "-p": "ports", "--ports": "ports"},
        lists=frozenset({"commands"}),
    )

    def plan(self, workflow: BashConfig, ctx: PlanContext) -> Sequence[JobSpec]:
        commands = (*workflow.first_commands, *(command.rstrip("\n") for command in workflow.commands))
        environment, fields = all_of(lambda: python_env(workflow, ctx), lambda: workflow.job(ctx))
        return [JobSpec(commands=commands, python=environment, ports=workflow.ports, **fields)]
