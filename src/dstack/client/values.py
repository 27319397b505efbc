"""Values that go with a run and are not stored in the clear: `-e NAME[=VALUE]`, `--env-file`, `env: [NAME]`.

They travel beside the arguments, in which only their names are left.
"""

from __future__ import annotations

import os
import re

from dstack.client.env_file import is_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_ITEM = re.compile(r"""^[ \t]*(?:-[ \t]+)+["']?([A-Za-z_]\w*)["']?[ \t]*(?:#.*)?\r?$""", re.MULTILINE | re.ASCII)
"""A line of a list that is one name."""
_FLOW = re.compile(r"\[([^\[\]{}]*)\]")
_EXPRESSION = re.compile(r"\$\{\{[^{}]*\}\}")
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*$", re.MULTILINE)


class ValuesError(Exception):
    """What is given as a value cannot be one. No message shows it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def collect(
    given: Sequence[str],
    from_files: Mapping[str, str | None],
    workflow_files: Mapping[str, str],
    environ: Mapping[str, str] = os.environ,
) -> tuple[list[str], dict[str, str]]:
    """(arguments that name what was given, values by name).

    `given` are the values of `-e`, and win over `from_files`, whose None is the shell's own value, as `-e NAME` is.
    A name that is not set has no value: the server says where it is needed. Raises ValuesError.
    """
    wanted: dict[str, str | None] = dict(from_files)
    for text in given:
        name, equals, value = text.partition("=")
        if not is_name(name):
            raise ValuesError(
                f"`{name if equals or _is_harmless(name) else '…'}` cannot name an environment variable",
                "write -e NAME or -e NAME=VALUE",
            )
        wanted[name] = value if equals else None
    values: dict[str, str] = {}
    for name, value in wanted.items():
        found = environ.get(name) if value is None else value
        if found is not None:
            values[name] = _checked(name, found)
    for name in names_in(workflow_files):
        if name not in values and name in environ and _is_text(environ[name]):
            values[name] = environ[name]
    arguments = [word for name in wanted for word in ("-e", name)]
    return arguments, values


def names_in(workflow_files: Mapping[str, str]) -> set[str]:
    """What may be names in `env: [NAME]`: items of lists that are a name and nothing else.

    A YAML parser would cost too much here. What is found too much is sent, dropped by the server, and stored nowhere.
    """
    return {
        name
        for text in workflow_files.values()
        if "env" in text  # `env:`, `environment:`
        for name in (*_ITEM.findall(text), *_flow_items(text))
    }


def _flow_items(text: str) -> Iterator[str]:
    for content in _FLOW.findall(_EXPRESSION.sub("", text)):
        for item in _COMMENT.sub("", content).split(","):
            name = item.strip().strip("\"'")
            if is_name(name):
                yield name


def _checked(name: str, value: str) -> str:
    if not _is_text(value):
        raise ValuesError(f"the value of `{name}` is not UTF-8 text", "encode it, for example in base64")
    if "\0" in value:
        raise ValuesError(f"the value of `{name}` holds a zero byte")
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_harmless(name: str) -> bool:
    """Whether it looks like a misspelt name; anything else may be a value that was typed in the wrong place."""
    return len(name) <= 40 and all(char.isalnum() or char in "_-. " for char in name)
