"""What providers whose jobs may run Python share: its version, its packages, and commands that go first."""

from __future__ import annotations

import posixpath
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dstack.sdk.config import Text, Texts, WorkflowConfig, listed, wrong
from dstack.sdk.provider import PlanContext, PlanError, PythonEnv

_FILE = "-r "
_VERSION = re.compile(r"3(\.\d{1,3}){0,2}")


def _check_version(version: str) -> str:
    if _VERSION.fullmatch(version) is None:
        raise wrong(f"`{version}` is not a version of Python 3", "write for example `3.11`")
    return version


def _requirements(value: object) -> object:
    """One text is the name of a file."""
    return [f"{_FILE}{value.strip()}"] if isinstance(value, str) and value.strip() else listed(value)


Version = Annotated[Text, AfterValidator(_check_version)]


class InterpreterConfig(WorkflowConfig):
    version: Version | None = None
    python: Version | None = None
    """The older name of `version`."""
    requirements: Annotated[tuple[Text, ...], BeforeValidator(_requirements)] = ()
    """The name of a file, or a list of requirements."""
    before_run: Texts = ()
    setup: Texts = ()
    """The newer name of `before_run`."""

    @model_validator(mode="after")
    def _one_name_each(self) -> InterpreterConfig:
        if self.version is not None and self.python is not None:
            raise wrong("`python` and `version` are the same key", "keep one of them", ("python",), "key")
        if self.before_run and self.setup:
            raise wrong("`setup` and `before_run` are the same key", "keep one of them", ("setup",), "key")
        return self

    @property
    def first_commands(self) -> tuple[str, ...]:
        return self.before_run or self.setup


Commands = Annotated[Texts, Field(min_length=1)]
"""Lines of a script: a list, or one text of several lines."""


def python_env(workflow: InterpreterConfig, ctx: PlanContext) -> PythonEnv | None:
    """The environment that the workflow asks for; None where it asks for none. Raises PlanError."""
    version = workflow.version or workflow.python
    requirements = tuple(
        [_checked(line, index, workflow.working_dir, ctx) for index, line in enumerate(workflow.requirements)]
    )
    if version is None and not requirements:
        return None
    return PythonEnv(version, requirements)


def _checked(line: str, index: int, working_dir: str, ctx: PlanContext) -> str:
    """A requirement as it is, or `-r FILE` with the file's path from the root of the code.

    The file is looked for in the working directory, then in the root.
    """
    if not line.startswith(_FILE):
        return line
    name = line.removeprefix(_FILE).strip()
    at = ("requirements", index)
    for folder in dict.fromkeys((working_dir, ".")):
        path = posixpath.normpath(posixpath.join(folder, name))
        if path.startswith(("/", "..")):
            raise PlanError(f"`{name}` lies outside the repository", at=at, hint="name a file of the repository")
        if ctx.read_text(path) is not None:
            return _FILE + path
    hint = "create it, or check that it is not ignored by .gitignore or .dstackignore"
    raise PlanError(f"there is no file `{name}` in the code that is sent", at=at, hint=hint)
