"""What providers whose jobs may run Python share: its version, its packages, commands that go first, network ports."""

from __future__ import annotations

import functools
import re
from typing import Annotated, Self, cast

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from dstack.providers import packages
from dstack.sdk.config import WorkflowConfig
from dstack.sdk.fields import NotBlank, Text, Texts, count, listed, wrong
from dstack.sdk.provider import PlanContext, PythonEnv, all_of

MAX_PORTS = 100

_VERSION = re.compile(r"3(\.\d{1,3}){0,2}")


def _check_version(version: str) -> str:
    if _VERSION.fullmatch(version) is None:
        raise wrong(f"`{version}` is not a version of Python 3", "write for example `3.11`")
    return version


def _requirements(value: object) -> object:
    """One text is the name of a file."""
    return [f"{packages.FILE}{value.strip()}"] if isinstance(value, str) and value.strip() else listed(value)


def _ports(value: object) -> tuple[int, ...]:
    """A number of ports, any that are free (0); or a list of the very ports."""
    if isinstance(value, list | tuple):
        return tuple([_port(item, index) for index, item in enumerate(listed(cast(object, value)))])
    number = 0 if value is None else count(value)
    if number > MAX_PORTS:
        raise wrong(f"more than {MAX_PORTS} ports", "a number says how many; to ask for one port write `[8080]`")
    return (0,) * number


def _port(value: object, index: int) -> int:
    port = count(value)
    if not 0 < port < 65536:
        raise wrong(f"`{port}` is not a port", "ports are numbers from 1 to 65535", (index,))
    return port


Version = Annotated[
    Text,
    AfterValidator(_check_version),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": f"^{_VERSION.pattern}$"},
                {"type": "number", "minimum": 3, "exclusiveMaximum": 4},
            ]
        },
        mode="validation",
    ),
]
_Port = Annotated[int, Field(ge=1, le=65535)]
_HowMany = Annotated[int, Field(ge=0, le=MAX_PORTS)]
Ports = Annotated[
    tuple[int, ...],
    BeforeValidator(_ports, json_schema_input_type=_HowMany | list[_Port] | None),
]
_Lines = Annotated[list[NotBlank], Field(min_length=1)]
Commands = Annotated[
    tuple[Text, ...], BeforeValidator(listed, json_schema_input_type=NotBlank | _Lines), Field(min_length=1)
]
"""Lines of a script: a list, or one text of several lines."""


class InterpreterConfig(WorkflowConfig):
    version: Version | None = Field(
        default=None,
        description="Version of Python; where neither it nor `requirements` is given, the submitting shell's own.",
        examples=["3.11"],
    )
    python: Version | None = Field(default=None, description="The older name of `version`.")
    requirements: Annotated[
        tuple[Text, ...],
        BeforeValidator(_requirements, json_schema_input_type=NotBlank | list[NotBlank] | None),
    ] = Field(
        default=(),
        description="Python packages: the name of a file, or a list of requirements.",
        examples=["requirements.txt"],
    )
    before_run: Texts = Field(default=(), description="Commands that go first, in the same shell.")
    setup: Texts = Field(default=(), description="The newer name of `before_run`.")

    @model_validator(mode="after")
    def _one_name_each(self) -> Self:
        if self.version is not None and self.python is not None:
            raise wrong("`python` and `version` are the same key", "keep one of them", ("python",), "key")
        if self.before_run and self.setup:
            raise wrong("`setup` and `before_run` are the same key", "keep one of them", ("setup",), "key")
        return self

    @property
    def first_commands(self) -> tuple[str, ...]:
        return tuple(command.rstrip("\n") for command in self.before_run or self.setup)


def python_env(workflow: InterpreterConfig, ctx: PlanContext) -> PythonEnv | None:
    """The environment that the workflow asks for; None where it asks for none. Raises PlanError."""
    version = workflow.version or workflow.python
    lines = enumerate(workflow.requirements)
    requirements = tuple(all_of(*(functools.partial(packages.check, workflow, line, at, ctx) for at, line in lines)))
    if version is None and not requirements:
        return None
    key = "version" if workflow.version is not None else "python"
    return PythonEnv(version, requirements, ctx.position((key,)) if version is not None else "")
