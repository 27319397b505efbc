"""What a provider is: a program that turns one workflow into jobs."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import msgspec

from dstack.domain.resources import Requirements


class PythonEnv(msgspec.Struct, frozen=True, omit_defaults=True):
    """The Python environment a job runs in. Neither field given: the submitting shell's own interpreter.

    `version` is `3.11`-like. `requirements` are requirement lines, or `-r FILE` lines whose FILE is relative to
    the root of the code.
    """

    version: str | None = None
    requirements: tuple[str, ...] = ()
    asked_at: str = ""
    """Where `version` stands, as `file:line:col`: whether it is there is known only where the job runs."""


class JobSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One job as a provider plans it; everything the runner needs to run it except code, inputs and identity.

    `commands` are lines of one bash script run with `set -e -o pipefail`, unless `argv` is given: then
    exactly that program is executed, without a shell. `argv[0] == "python"` means the interpreter of `python`.
    """

    name: str = ""
    """Empty for a step with one job, else a suffix such as `0` (job `train-0`)."""
    commands: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    """`$NAME` in a value stands for a variable that is there before it, `$$` for `$`."""
    python: PythonEnv | None = None
    working_dir: str = "."
    artifacts: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    """Network ports that it is told of in `JOB_PORT_0` and so on; 0 is any that is free."""
    requirements: Requirements = Requirements()
    secrets: tuple[str, ...] = ()
    """Names of the secrets and caller's values that it is given. A value of `environment` holds each as
    `secret_marker(NAME)`; the runner puts the value there once it has fetched it, and it is stored nowhere."""


CALLERS = "env:"
"""Begins the names of values of the caller's shell among `JobSpec.secrets`; others are secrets."""
MARKER = re.compile("\0([^\0]+)\0")
"""What `secret_marker` makes, with the name."""


def secret_marker(name: str) -> str:
    """What stands for a secret in a value of `JobSpec.environment`: no other value can hold a zero byte."""
    return f"\0{name}\0"


class PlanContext(Protocol):
    """What `Provider.plan` may look at: no network, no clock, no file outside the code snapshot."""

    @property
    def run_name(self) -> str: ...

    @property
    def workflow_name(self) -> str: ...

    @property
    def variables(self) -> Mapping[str, Any]:
        """The workflow's variables, global ones included, typed as YAML types them."""
        ...

    @property
    def args(self) -> Sequence[str]:
        """Arguments of the command line for the provider's program; empty unless `accepts_args`."""
        ...

    def read_text(self, path: str) -> str | None:
        """The text of a file of the code that is shipped, also behind links within it, or None where there is none.

        Raises `dstack.sdk.requirement_files.NotText` where it is not text, or too large to be.
        """
        ...

    def exists(self, path: str) -> bool:
        """Whether `path` may be there when the job starts: it is in the code, or within what a dependency brings."""
        ...

    def near(self, path: str) -> str:
        """A file of the code whose path is like `path`; empty where there is none."""
        ...

    def excluded(self, path: str) -> str:
        """The `code: {exclude}` that keeps `path` out of the code, as people would look for it; empty for none."""
        ...

    def position(self, at: tuple[str | int, ...]) -> str:
        """Where the value of the key at `at` stands, as `file:line:col`."""
        ...

    def warn(self, message: str, *, at: tuple[str | int, ...] = (), hint: str = "") -> None:
        """Tell whoever runs the workflow something about the key at `at` that does not keep it from running."""
        ...


class PlanError(Exception):
    """Raised by `Provider.plan` when a workflow cannot become jobs.

    `at` is the path of the key to blame, such as `("requirements",)` or `("args", 2)`; `others` is what else is wrong.
    """

    def __init__(
        self, message: str, *, at: tuple[str | int, ...] = (), hint: str = "", others: Sequence[PlanError] = ()
    ) -> None:
        super().__init__(message)
        self.at = at
        self.hint = hint
        self.others = tuple(others)


def all_of(*parts: Callable[[], Any]) -> list[Any]:
    """What the `parts` of a plan return, each called though others raise PlanError: all of that is told at once."""
    found: list[Any] = []
    errors: dict[tuple[object, ...], PlanError] = {}
    for part in parts:
        try:
            found.append(part())
        except PlanError as error:
            for each in (error, *error.others):
                errors.setdefault((str(each), each.at), each)
    if errors:
        first, *others = errors.values()
        raise PlanError(str(first), at=first.at, hint=first.hint, others=others)
    return found


@dataclass(frozen=True)
class CommandLine:
    """How `dstack run PROVIDER …` names the keys of a workflow that is in no file.

    `first` is the key that the first word gives, `options` the keys that options give (each with one value), `lists`
    those of them that may come more than once. `split`: the text of `first` is otherwise split as a shell would.
    """

    usage: str
    first: str = ""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    lists: frozenset[str] = frozenset()
    split: bool = False


class Provider(ABC):
    """Base class of providers. `Config` is a pydantic model of the workflow's keys, best derived from
    `dstack.sdk.config.WorkflowConfig`."""

    name: ClassVar[str]
    Config: ClassVar[type[Any]]
    accepts_args: ClassVar[bool] = False
    """Whether options and arguments of `dstack run` that dstack does not know go to the provider's program."""
    command_line: ClassVar[CommandLine | None] = None
    """None: only workflows of files have it."""

    @abstractmethod
    def plan(self, workflow: Any, ctx: PlanContext) -> Sequence[JobSpec]:
        """The jobs of `workflow`, an instance of `Config`; pure, and never empty. Raises PlanError."""
