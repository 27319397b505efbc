"""What providers whose jobs may run Python share: its version, its packages, commands that go first, network ports."""

from __future__ import annotations

import functools
import itertools
import posixpath
import re
from typing import Annotated, Self, cast

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from dstack.providers.requirement_lines import trouble, wrong_lines
from dstack.sdk.config import WorkflowConfig, absent
from dstack.sdk.fields import NotBlank, Text, Texts, count, listed, wrong
from dstack.sdk.provider import PlanContext, PlanError, PythonEnv, all_of

MAX_PORTS = 100

_FILE = "-r "
_PACKAGE = re.compile(r"[A-Za-z][\w-]*([\[=<>~! ].*)?")
_NAME = re.compile(r"[A-Za-z][\w.-]*")
_FILES = (".txt", ".in")
"""What the names of requirements files end in."""
_MOST_LINES = 20
"""Wrong lines of one file that are told."""
_MOST_TOLD = 10
"""Packages that are put into a hint."""
_VERSION = re.compile(r"3(\.\d{1,3}){0,2}")


def _check_version(version: str) -> str:
    if _VERSION.fullmatch(version) is None:
        raise wrong(f"`{version}` is not a version of Python 3", "write for example `3.11`")
    return version


def _requirements(value: object) -> object:
    """One text is the name of a file."""
    return [f"{_FILE}{value.strip()}"] if isinstance(value, str) and value.strip() else listed(value)


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
    checks = [
        functools.partial(_checked, workflow, line, index, ctx) for index, line in enumerate(workflow.requirements)
    ]
    requirements = tuple(all_of(*checks))
    if version is None and not requirements:
        return None
    key = "version" if workflow.version is not None else "python"
    return PythonEnv(version, requirements, ctx.position((key,)) if version is not None else "")


def missing_file(name: str, path: str, at: tuple[str | int, ...], ctx: PlanContext) -> PlanError:
    """The error that `name`, a file at `path` of the code, is not there."""
    near = ctx.near(path) if not ctx.excluded(path) else ""
    hint = (f"did you mean `{near}`? " if near else "") + absent(path, ctx, "create it")
    return PlanError(f"there is no file {_cut(name)} in the code that is sent", at=at, hint=hint)


def _cut(name: str) -> str:
    """What stands in place of a file's name, in one line: it may be a whole list of packages."""
    words = " ".join(name[:1000].split())
    return f"`{words if len(words) <= 100 else words[:100] + '…'}`"


def _checked(workflow: InterpreterConfig, line: str, index: int, ctx: PlanContext) -> str:
    """A requirement as it is, or `-r FILE` with the file's path from the root of the code.

    The file is looked for in the working directory, then in the root.
    """
    at = ("requirements", index)
    if not line.startswith(_FILE):
        if wrong_line := trouble(line):
            raise PlanError(f"`{line}` is no requirement: {wrong_line}", at=at, hint=_as_file(line))
        return line
    name = line.removeprefix(_FILE).strip()
    for folder in dict.fromkeys((workflow.working_dir, ".")):
        path = posixpath.normpath(posixpath.join(folder, name))
        if path.startswith(("/", "..")):
            raise PlanError(f"`{name}` lies outside the repository", at=at, hint="name a file of the repository")
        text = ctx.read_text(path)
        if text is not None:
            _check_lines(path, text, at)
            return _FILE + path
    workflow.check_folder(ctx)
    path = posixpath.normpath(posixpath.join(workflow.working_dir, name))
    if (packages := _packages(name)) and not ctx.near(path).endswith(_FILES):
        told = ", ".join(packages[:_MOST_TOLD]) + (", …" if len(packages) > _MOST_TOLD else "")
        hint = f"packages stand in a file such as requirements.txt, or in a list: `requirements: [{told}]`"
        raise PlanError(f"there is no file {_cut(name)} in the code that is sent", at=at, hint=hint)
    raise missing_file(name, path, at, ctx)


def _packages(name: str) -> list[str]:
    """The packages that somebody named in place of a file; empty where it looks like none."""
    words = name.replace(",", " ").split()
    if len(words) > 1 and all(_NAME.fullmatch(word) for word in words):
        return words
    return [name] if _PACKAGE.fullmatch(name) is not None else []


def _as_file(line: str) -> str:
    return f"a file is named by `requirements: {line}`" if line.endswith(_FILES) else ""


def _check_lines(path: str, text: str, at: tuple[str | int, ...]) -> None:
    errors = [
        PlanError(f"{path}:{number}: `{line[:100]}` is no requirement: {why}", at=at)
        for number, line, why in itertools.islice(wrong_lines(text), _MOST_LINES)
    ]
    if errors:
        first, *others = errors
        raise PlanError(str(first), at=at, others=others)
