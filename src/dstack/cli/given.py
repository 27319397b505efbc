"""What a new run is given by name: `-e NAME[=VALUE]` and `--env-file FILE`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from dstack.cli.errors import UserError
from dstack.cli.render import paint, say
from dstack.client import env_file, values


def given(
    env: Sequence[str],
    env_files: Sequence[str],
    files: Mapping[str, str],
    *,
    root: str | None,
    known: Sequence[str] = (),
) -> tuple[list[str], dict[str, str]]:
    """(arguments that name what is given, values of that and of what the workflow files ask for). Raises UserError.

    `root` is the repository whose code goes along, if any does; of `known` the shell's own values are taken.
    """
    found: dict[str, str | None] = dict.fromkeys((name for name in known if name in os.environ), None)
    try:
        for path in env_files:
            found.update(env_file.read(path))
        result = values.collect(env, found, files)
    except env_file.EnvFileError as error:
        raise UserError(str(error), error.hint) from None
    except values.ValuesError as error:
        raise UserError(error.message, error.hint) from None
    if env_files and root is not None:
        _warn_of_shipped(root, env_files)
    return result


def origins(env: Sequence[str], env_files: Sequence[str]) -> dict[str, str]:
    """What gives the names that have a value of their own, and not that of the shell. Raises EnvFileError."""
    found: dict[str, str] = {}
    for path in env_files:
        for name, value in env_file.read(path).items():
            _note(found, name, None if value is None else f"given by {path}")
    for text in env:
        name, equals, _ = text.partition("=")
        _note(found, name, "given by -e" if equals else None)
    return found


def _note(found: dict[str, str], name: str, origin: str | None) -> None:
    """The last one that names it counts."""
    found.pop(name, None)
    if origin is not None:
        found[name] = origin


def _warn_of_shipped(root: str, paths: Sequence[str]) -> None:
    """A file of values in the repository goes with the code, in the clear, unless git or dstack ignore it."""
    within = [os.path.relpath(os.path.realpath(path), root) for path in paths]
    within = [path for path in within if not path.startswith("../")]
    if not within:
        return
    from dstack.client.listing import Listing

    shipped = set(Listing(root).paths())
    for path in within:
        if path in shipped:
            say(
                f"{paint('warning:', 'yellow', sys.stderr)} {path} itself goes with the code, for all to read who see "
                "the run; name it in .gitignore or .dstackignore"
            )
