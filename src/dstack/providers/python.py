"""The `python` provider: one script and its arguments."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dstack.providers.interpreter import InterpreterConfig, python_env
from dstack.sdk.config import Text, listed, wrong
from dstack.sdk.provider import JobSpec, PlanContext, Provider, PythonEnv
from dstack.sdk.scalars import shown, text_of


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        reason = str(error).lower()
        raise wrong(
            f"cannot be split into arguments: {reason}", "close the quotes, or write `args` as a list"
        ) from None


def _arguments(value: object) -> Sequence[object]:
    """One text is split as a shell would; the items of a list are taken as they are."""
    return _split(value) if isinstance(value, str) else listed(value)


def _argument(value: object) -> str:
    """Unlike other texts, an argument may be empty."""
    if not isinstance(value, str | bool | int | float):
        raise wrong(f"expected text, not {shown(value)}")
    text = text_of(value)
    if "\0" in text:
        raise wrong("must not hold a zero byte")
    return text


def _check_script(script: str) -> str:
    words = _split(script)
    if not words or not words[0]:
        raise wrong("must name a file", "write for example `train.py`")
    return script


Script = Annotated[Text, AfterValidator(_check_script)]


class PythonConfig(InterpreterConfig):
    script: Script | None = Field(default=None, examples=["train.py"])
    """The file to run; arguments may follow it."""
    file: Script | None = None
    """Another name of `script`."""
    python_script: Script | None = None
    """The oldest name of `script`."""
    args: Annotated[tuple[Annotated[str, BeforeValidator(_argument)], ...], BeforeValidator(_arguments)] = ()

    @model_validator(mode="after")
    def _one_script(self) -> Self:
        given = [key for key in ("script", "file", "python_script") if getattr(self, key) is not None]
        if not given:
            raise wrong("`script` is missing", "name the file to run: `script: train.py`")
        if len(given) > 1:
            raise wrong(f"`{given[1]}` and `{given[0]}` are the same key", "keep one of them", (given[1],), "key")
        return self

    def command(self) -> list[str]:
        """The file to run and its arguments."""
        return [*_split(self.script or self.file or self.python_script or ""), *self.args]


class PythonProvider(Provider):
    name: ClassVar[str] = "python"
    Config: ClassVar[type[PythonConfig]] = PythonConfig
    accepts_args: ClassVar[bool] = True

    def plan(self, workflow: PythonConfig, ctx: PlanContext) -> Sequence[JobSpec]:
        argv = ("python", *workflow.command(), *ctx.args)
        environment = python_env(workflow, ctx) or PythonEnv()
        if workflow.first_commands:
            # One shell, so that what these commands export reaches the script.
            first = (command.rstrip("\n") for command in workflow.first_commands)
            commands = (*first, shlex.join(argv))
            return [JobSpec(commands=commands, python=environment, **workflow.job(ctx))]
        return [JobSpec(argv=argv, python=environment, **workflow.job(ctx))]
