"""The keys that every workflow may have. A provider's `Config` derives from `WorkflowConfig` and adds its own.

The types that keys are made of, and `wrong(...)` to raise in validators, come from `dstack.sdk.fields`. What a field
says in `description` is what the reference, the JSON Schema and `--help` say of its key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from dstack.domain.resources import Gpu, Requirements
from dstack.sdk.fields import (
    Count,
    Flag,
    Folder,
    NotBlank,
    RelativePath,
    Section,
    Size,
    Text,
    Texts,
    TimeLimit,
    count,
    listed,
    short_for,
    text,
    together,
    wrong,
)
from dstack.sdk.provider import CALLERS, MARKER, PlanContext, PlanError, secret_marker
from dstack.sdk.retry import Retry
from dstack.sdk.scalars import shown, text_of

_ENV_NAME = "[A-Za-z_][A-Za-z0-9_]*"


# --- environment --------------------------------------------------------------------------------------------------


def _environment(value: object) -> dict[str, str]:
    """From a map, or from a list of `K=V` and `K` (the caller's own value)."""
    found: dict[str, str] = {}
    errors: list[PydanticCustomError] = []
    for at, name, content in _pairs(value):
        place: Literal["key", "value"] = "key" if isinstance(at, str) else "value"
        if isinstance(at, int) and not isinstance(content, str):
            errors.append(_not_an_item(at, content))
        elif re.fullmatch(_ENV_NAME, name) is None:
            hint = "letters, digits and `_`, and a letter first"
            errors.append(wrong(f"`{name[:60]}` cannot name an environment variable", hint, (at,), place))
        elif not isinstance(content, str | bool | int | float | None):
            errors.append(wrong(f"the value of `{name}` must be text, not {shown(content)}", at=(at,)))
        elif "\0" in MARKER.sub("", written := text_of(content)):
            errors.append(wrong(f"the value of `{name}` must not hold a zero byte", at=(at,)))
        else:
            found[name] = written
    if errors:
        raise together(errors)
    return found


def _pairs(value: object) -> Iterator[tuple[str | int, str, object]]:
    """(key or index, name, value) of each variable; a name alone stands for what the caller's shell has.

    What is no text in a list comes without a name, as it is.
    """
    if isinstance(value, Mapping):
        for name, content in cast("Mapping[object, object]", value).items():
            yield str(name), str(name), content
    elif isinstance(value, list | tuple):
        for index, item in enumerate(cast("Sequence[object]", value)):
            if not isinstance(item, str | bool | int | float):
                yield index, "", item
                continue
            name, equals, content = text_of(item).partition("=")
            yield index, name, content if equals else secret_marker(f"{CALLERS}{name}")
    elif value is not None:
        raise wrong(f"expected `NAME: value` lines or a list of `NAME=value`, not {shown(value)}")


def _not_an_item(at: int, item: object) -> PydanticCustomError:
    """`- A: 1` is a list with a mapping in it."""
    hint = ""
    if isinstance(item, Mapping):
        entries = cast("Mapping[object, object]", item)
        name, content = next(iter(entries.items()), ("NAME", "value"))
        single = len(entries) == 1 and isinstance(content, str | bool | int | float) and len(text_of(content)) <= 60
        written = f"{name}={text_of(content)}" if single else "NAME=value"
        hint = f"in a list write `{written}`; `NAME: value` lines have no `-` before them"
    return wrong(f"expected `NAME=value`, not {shown(cast(object, item))}", hint, (at,))


_VALUES: dict[str, Any] = {"type": ["string", "number", "boolean", "null"]}
Environment = Annotated[
    dict[str, str],
    BeforeValidator(_environment),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "object", "propertyNames": {"pattern": f"^{_ENV_NAME}$"}, "additionalProperties": _VALUES},
                {"type": "array", "items": {"type": ["string", "boolean"], "pattern": f"^{_ENV_NAME}(=|$)"}},
                {"type": "null"},
            ]
        },
        mode="validation",
    ),
]
"""Environment variables, as a map or as a list of `NAME=value`; `NAME` alone in a list takes the caller's value."""

# --- artifacts and dependencies -----------------------------------------------------------------------------------


class Artifact(Section):
    """A folder that is kept."""

    path: Folder = Field(description="The folder, relative to the working directory.")
    mount: Flag = Field(
        default=False, description="Accepted from 2022, when it meant saving at once: that is what happens anyway."
    )


Artifacts = Annotated[
    tuple[
        Annotated[Artifact, BeforeValidator(short_for("path", text), json_schema_input_type=Folder | Artifact)],
        ...,
    ],
    BeforeValidator(listed, json_schema_input_type=Folder | Artifact | list[Folder | Artifact] | None),
]


class RepoPaths(Section):
    """Paths of the repository that a workflow of early 2022 depended on."""

    include: Texts = Field(default=(), description="Paths of the repository.")


class Dependency(Section):
    """One item of `depends-on` or `deps` in its long form."""

    workflow: Text | None = Field(default=None, description="Reuse what the newest successful run of it made.")
    tag: Text | None = Field(default=None, description="Reuse what this tag points at.")
    mount: Flag = Field(
        default=False, description="Accepted from 2022: inputs are shared between jobs by reflink where possible."
    )
    repo: RepoPaths | None = Field(
        default=None, description="Accepted from early 2022, without effect: a run gets the whole code."
    )
    workflows: Texts = Field(default=(), description="Workflows, written as in the list around it.")

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if "repo" in self.model_fields_set or "workflows" in self.model_fields_set:
            if mixed := self.model_fields_set - {"repo", "workflows"}:
                raise wrong(f"`{min(mixed)}` does not go with `workflows`", "write it as an item of its own")
        elif (self.workflow is None) == (self.tag is None):
            raise wrong("names one workflow or one tag", "write `workflow: NAME` or `tag: NAME`")
        return self


Dependencies = Annotated[
    tuple[
        Annotated[
            Dependency, BeforeValidator(short_for("workflow", text), json_schema_input_type=NotBlank | Dependency)
        ],
        ...,
    ],
    BeforeValidator(listed, json_schema_input_type=NotBlank | Dependency | list[NotBlank | Dependency] | None),
]

# --- resources ----------------------------------------------------------------------------------------------------


class GpuConfig(Section):
    """GPUs: how many, which, and with how much memory each."""

    count: Count = Field(default=1, description="How many.")
    name: Text | None = Field(default=None, description="Part of the card's name, such as `V100`.", examples=["V100"])
    memory: Size = Field(default=None, description="At least this much memory on each card.", examples=["16GB"])


class CpuConfig(Section):
    count: Count = Field(default=1, description="How many logical processors.")


def _named_gpus(schema: dict[str, Any]) -> None:
    """`V100/gpu: 2`, which no field stands for."""
    cards = schema["properties"]["gpu"]["anyOf"]
    counts = [kind for kind in cards if "$ref" not in kind and kind.get("type") != "null"]
    described = {"description": "GPUs whose name holds what stands before the `/`: how many."}
    schema["patternProperties"] = {"^.+/gpu$": {**described, "anyOf": counts}}


class Resources(Section):
    """What one job asks of a machine. A zero, as a variable may bring it, asks for nothing."""

    model_config = ConfigDict(json_schema_extra=_named_gpus)

    cpu: Annotated[
        CpuConfig | None, BeforeValidator(short_for("count", count), json_schema_input_type=Count | CpuConfig | None)
    ] = Field(default=None, description="Logical processors; 1 where nothing is said.", examples=["2"])
    memory: Size = Field(default=None, description="Memory such as `16GB` or `512MiB`.", examples=["16GB"])
    gpu: Annotated[
        GpuConfig | None, BeforeValidator(short_for("count", count), json_schema_input_type=Count | GpuConfig | None)
    ] = Field(
        default=None,
        description="GPUs: a number, or `count`, `name` and `memory`. `V100/gpu: 2` is short for two of that name. "
        "A job that asks for none sees none.",
        examples=["1"],
    )
    shm_size: Size = Field(
        default=None,
        description="Size of a container's /dev/shm. A job without a container has its machine's.",
        examples=["16GB"],
    )
    interruptible: Flag = Field(
        default=False, description="Whether a machine that may be taken away (spot) is good enough."
    )
    local: Flag = Field(default=False, description="Run on this server's own runners, as jobs do anyway.")
    remote: Flag = Field(default=False, description="Run on a machine of a cloud, of which there are none yet.")

    @model_validator(mode="before")
    @classmethod
    def _named_gpu(cls, data: object) -> object:
        """`V100/gpu: 2` is short for `gpu: {name: V100, count: 2}`."""
        if not isinstance(data, Mapping):
            return data
        entries = cast("Mapping[str, object]", data)
        named = [key for key in entries if key.endswith("/gpu") and len(key) > 4]
        if not named:
            return entries
        if len(named) > 1 or "gpu" in entries:
            raise wrong("one job has one kind of GPU", "keep one of the keys", (named[-1],), "key")
        try:
            cards = count(entries[named[0]])
        except PydanticCustomError as error:
            raise wrong(error.message(), at=(named[0],)) from None
        others = {key: value for key, value in entries.items() if key != named[0]}
        return {**others, "gpu": {"name": named[0][:-4], "count": cards}}

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.local and self.remote:
            raise wrong("`local` and `remote` exclude each other", "keep one of them", ("remote",), "key")
        return self

    def requirements(self) -> Requirements:
        """The same for the placer."""
        cpu = self.cpu.count if self.cpu is not None else 0
        gpu = Gpu()
        if self.gpu is not None and self.gpu.count:
            gpu = Gpu(self.gpu.count, self.gpu.name, self.gpu.memory)
        return Requirements(cpu or 1, self.memory, gpu, self.shm_size, self.interruptible)

    def check(self, ctx: PlanContext) -> None:
        """Raises PlanError for a place that there is not, and tells what has no effect here."""
        if self.remote:
            hint = "remove `remote`: the job then runs on the runners of this server"
            raise PlanError("there are no machines of a cloud yet", at=("resources", "remote"), hint=hint)
        if self.interruptible:
            message = "there are no interruptible machines yet: the job runs on one that stays"
            ctx.warn(message, at=("resources", "interruptible"))
        if self.shm_size is not None:
            message = "the job is no container: it has the whole /dev/shm of its machine"
            ctx.warn(message, at=("resources", "shm_size"))


# --- policy and code ----------------------------------------------------------------------------------------------


class Code(Section):
    """Which files a run gets, beside those that git knows or does not ignore. Patterns are those of `.gitignore`."""

    include: Texts = Field(default=(), description="Patterns of files to send though git ignores them.")
    exclude: Texts = Field(default=(), description="Patterns of files to leave out.")


def _condition(value: object) -> str | bool:
    return value if isinstance(value, bool) else text(value)


def absent(path: str, ctx: PlanContext, otherwise: str) -> str:
    """What to do about a path that is not in the code, by what may have kept it out."""
    excluded = ctx.excluded(path)
    if excluded:
        return f"`code: {{exclude: […]}}` leaves it out: take {excluded} away"
    return f"{otherwise}, or check that it is not ignored by .gitignore or .dstackignore"


# --- the workflow -------------------------------------------------------------------------------------------------


class WorkflowConfig(BaseModel):
    """The keys that every workflow may have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text = Field(description="What the workflow is called: `dstack run NAME`.")
    provider: Text = Field(description="The program that makes jobs of it.")
    help: Text | None = Field(default=None, description="What it does, for lists and `dstack run NAME --help`.")
    depends_on: Dependencies = Field(
        default=(),
        alias="depends-on",
        description="Workflows to run first, in the same run; `NAME:TAG` reuses what a tag points at.",
    )
    deps: Dependencies = Field(
        default=(),
        description="Earlier results to reuse: `NAME` (its newest success), `NAME:TAG`, `:TAG`, "
        "`user/repo/NAME`, or a mapping with `workflow` or `tag`.",
    )
    artifacts: Artifacts = Field(
        default=(), description="Folders to keep, saved while the job runs.", examples=["[checkpoint]"]
    )
    resources: Resources | None = Field(default=None, description="What a job asks of its machine.")
    environment: Environment = Field(
        default_factory=dict[str, str],
        description="Environment variables, as a map or a list of `NAME=value`; `NAME` alone in a list takes the "
        "value of the caller's shell. `$NAME` in a value stands for a variable that the job has already, such as "
        "`$PATH`; `$$` is a `$`.",
    )
    env: Environment = Field(default_factory=dict[str, str], description="Another name of `environment`.")
    working_dir: RelativePath = Field(default=".", description="Where the job starts, relative to the repository.")
    if_: Annotated[str | bool | None, BeforeValidator(_condition, json_schema_input_type=str | bool | float)] = Field(
        default=None,
        alias="if",
        description="When it runs, once everything that it depends on has ended: `success()` (as where nothing is "
        "said), `failed()`, `always()`, variables, `==`, `!=`, `and`, `or`, `not`.",
        examples=["always()"],
    )
    continue_on_failure: Flag = Field(
        default=False,
        validation_alias=AliasChoices("continue-on-failure", "continue_on_failure"),
        description="Whether what depends on it goes on when it fails.",
    )
    fail_fast: Flag = Field(
        default=False,
        validation_alias=AliasChoices("fail-fast", "fail_fast"),
        description="Whether its other jobs are stopped when one of them fails.",
    )
    timeout: TimeLimit = Field(
        default=None,
        description="The longest that one attempt may run: seconds, or for example `90s`, `30m`, `1h30m`.",
        examples=["2h"],
    )
    retry: Annotated[
        Retry | None, BeforeValidator(short_for("max", count), json_schema_input_type=Count | Retry | None)
    ] = Field(default=None, description="When a job that failed is tried again; a number is short for `max`.")
    code: Code | None = Field(default=None, description="Which files its runs get.")

    @model_validator(mode="after")
    def _one_environment(self) -> Self:
        if self.env and self.environment:
            raise wrong("`env` and `environment` are the same key", "keep one of them", ("env",), "key")
        return self

    def check_folder(self, ctx: PlanContext) -> None:
        """Raises PlanError where the working directory is not in the code, nor within what dependencies bring."""
        if self.working_dir != "." and not ctx.exists(self.working_dir):
            message = f"there is no folder `{self.working_dir}` in the code that is sent"
            hint = absent(self.working_dir, ctx, "correct the path: it starts at the repository's folder")
            raise PlanError(message, at=("working_dir",), hint=hint)

    def job(self, ctx: PlanContext) -> dict[str, Any]:
        """The fields of `JobSpec` that these keys decide. Raises PlanError."""
        if not self.artifacts:  # for artifacts, the folders that they lie in are made
            self.check_folder(ctx)
        environment = self.environment or self.env
        fields: dict[str, Any] = {
            "environment": environment,
            "secrets": tuple(dict.fromkeys(name for value in environment.values() for name in MARKER.findall(value))),
            "working_dir": self.working_dir,
            "artifacts": tuple(dict.fromkeys(artifact.path for artifact in self.artifacts)),
        }
        for key, dependencies in (("depends-on", self.depends_on), ("deps", self.deps)):
            for index, dependency in enumerate(dependencies):
                if dependency.repo is not None:
                    hint = "to leave files out, list them under `code: {exclude: […]}`"
                    ctx.warn("`repo` has no effect: a run gets the whole code", at=(key, index, "repo"), hint=hint)
        if self.resources is not None:
            self.resources.check(ctx)
            fields["requirements"] = self.resources.requirements()
        return fields
