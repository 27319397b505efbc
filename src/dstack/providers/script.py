"""What providers of Python programs share: the file to run, its arguments, and the job that runs it."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from dstack.providers.interpreter import InterpreterConfig, python_env
from dstack.providers.packages import missing_file
from dstack.sdk.fields import Text, YamlScalar, listed, wrong
from dstack.sdk.provider import JobSpec, PlanContext, PythonEnv, all_of
from dstack.sdk.scalars import shown, text_of

_PYTHON = re.compile(r"python(3(\.\d+)?)?")
SCRIPT_KEYS = ("script", "file", "python_script")


def split(text: str) -> list[str]:
    """Words as a shell would make of `text`. Raises what `wrong` makes."""
    try:
        return shlex.split(text)
    except ValueError as error:
        reason = str(error).lower()
        raise wrong(
            f"cannot be split into arguments: {reason}", "close the quotes, or write `args` as a list"
        ) from None


def _arguments(value: object) -> Sequence[object]:
    """One text is split as a shell would; the items of a list are taken as they are."""
    return split(value) if isinstance(value, str) else listed(value)


def _argument(value: object) -> str:
    """Unlike other texts, an argument may be empty."""
    if not isinstance(value, str | bool | int | float):
        raise wrong(f"expected text, not {shown(value)}")
    text = text_of(value)
    if "\0" in text:
        raise wrong("must not hold a zero byte")
    return text


def _check_script(script: str) -> str:
    words = split(script)
    if not words or not words[0]:
        raise wrong("must name a file", "write for example `train.py`")
    return script


Arguments = Annotated[
    tuple[Annotated[str, BeforeValidator(_argument)], ...],
    BeforeValidator(_arguments, json_schema_input_type=YamlScalar | list[YamlScalar] | None),
]
"""A list, or one text that is split as a shell would."""
Script = Annotated[Text, AfterValidator(_check_script)]


def _one_script(schema: dict[str, Any]) -> None:
    known = [key for key in SCRIPT_KEYS if key in schema["properties"]]
    schema["anyOf"] = [{"required": [key], "properties": {key: {"not": {"type": "null"}}}} for key in known]


class ScriptConfig(InterpreterConfig):
    model_config = ConfigDict(json_schema_extra=_one_script)

    script: Script | None = Field(
        default=None, description="The file to run; arguments may follow it.", examples=["train.py"]
    )
    file: Script | None = Field(default=None, description="Another name of `script`.")
    args: Arguments = Field(default=(), description="Arguments: a list, or one text that is split as a shell would.")

    @model_validator(mode="after")
    def _one_script(self) -> Self:
        given = [key for key in SCRIPT_KEYS if getattr(self, key, None) is not None]
        if not given:
            hint = "name the file to run: `script: train.py`"
            if empty := self.model_fields_set & set(SCRIPT_KEYS):
                raise wrong("must not be empty", hint, (min(empty),))
            raise wrong("`script` is missing", hint)
        if len(given) > 1:
            raise wrong(f"`{given[1]}` and `{given[0]}` are the same key", "keep one of them", (given[1],), "key")
        return self

    def written(self) -> tuple[str, str]:
        """The key that names the file, and its value."""
        return next((key, value) for key in SCRIPT_KEYS if (value := getattr(self, key, None)) is not None)

    def command(self) -> list[str]:
        """The file to run and its arguments."""
        return [*split(self.written()[1]), *self.args]


def script_job(workflow: ScriptConfig, ctx: PlanContext, *before: str) -> JobSpec:
    """The job that runs `python BEFORE… FILE ARGUMENTS…`. Raises PlanError."""
    _, made, fields = all_of(
        lambda: _check_exists(workflow, ctx), lambda: python_env(workflow, ctx), lambda: workflow.job(ctx)
    )
    argv = ("python", *before, *workflow.command(), *ctx.args)
    environment: PythonEnv = made or PythonEnv()
    if workflow.first_commands:
        # One shell, so that what these commands export reaches the script.
        commands = (*workflow.first_commands, shlex.join(argv))
        return JobSpec(commands=commands, python=environment, **fields)
    return JobSpec(argv=argv, python=environment, **fields)


def _check_exists(workflow: ScriptConfig, ctx: PlanContext) -> None:
    key, _ = workflow.written()
    name = workflow.command()[0]
    # An option of Python such as `-m`, a file of the machine, or one that the first commands may make.
    if name.startswith(("-", "/")) or workflow.first_commands:
        return
    path = posixpath.normpath(posixpath.join(workflow.working_dir, name))
    if path.startswith("../") or not ctx.exists(path):
        if not path.startswith("../"):
            workflow.check_folder(ctx)
        missing = missing_file(name, path, (key,), ctx)
        if _PYTHON.fullmatch(name) is not None and (rest := workflow.command()[1:]):
            missing.hint = f"`{key}` names the file that Python runs: write `{key}: {shlex.join(rest)}`"
        raise missing
