"""How an error ends a command: what a person reads, and the exit code.

Every layer raises its own exceptions; this table is the one place that turns them into words. What no row knows is a
defect of dstack: its traceback goes to a file, and the person is told which.
"""

from __future__ import annotations

import errno
import os
import sys

from dstack.cli.render import diagnostics_text, harmless, paint
from dstack.client.api import ApiError, Unreachable
from dstack.client.profiles import ProfileError, choose
from dstack.client.repository import RepositoryError
from dstack.client.wire import WireError

USAGE = 2
INTERRUPTED = 130
TERMINATED = 143
BROKEN_PIPE = 141
_DAMAGED = "`dstack verify RUN` names the files it is part of; all others can be had by their paths"


class UserError(Exception):
    """A command cannot do what was asked. `hint` says what to do instead."""

    def __init__(self, message: str, hint: str | None = None, *, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


def report(error: BaseException) -> int:
    """Say on stderr what happened; the exit code to end with."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else USAGE
    if isinstance(error, KeyboardInterrupt):
        _say("interrupted\n")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        forget_stdout()
        return BROKEN_PIPE
    if isinstance(error, ApiError):
        _say(api_error_text(error))
        return USAGE
    if isinstance(error, (UserError, RepositoryError, ProfileError)):
        _say(error_text(error.message, error.hint))
        return error.exit_code if isinstance(error, UserError) else USAGE
    if isinstance(error, (Unreachable, WireError)):
        _say(error_text(f"no answer from the server: {error}", _server_hint()))
        return USAGE
    return _report_rare(error)


def _report_rare(error: BaseException) -> int:
    """Errors of modules that need not be loaded to get here."""
    from dstack.client.sources import ArtifactError
    from dstack.embedded import EmbeddedError

    if isinstance(error, (EmbeddedError, ArtifactError)):
        _say(error_text(error.message, error.hint))
        return USAGE
    if "dstack.client.store" in sys.modules:
        from dstack.snapshots.errors import SnapshotError

        if isinstance(error, SnapshotError):
            _say(error_text(str(error), _hint_of_store(error)))
            return USAGE
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        if error.filename:
            _say(error_text(f"{error.strerror}: {os.fsdecode(error.filename)}", None))
            return USAGE
        # What is left in the buffer would fail once more when the interpreter ends.
        forget_stdout()
        _say(error_text(f"standard output could not be written: {error.strerror}", None))
        return USAGE
    if "click" in sys.modules:
        import click

        if isinstance(error, click.ClickException):
            _say(click_error_text(error))
            return USAGE
        if isinstance(error, click.exceptions.Exit):
            return error.exit_code
        if isinstance(error, click.Abort):
            _say("interrupted\n")
            return INTERRUPTED
    _say(error_text(f"dstack failed unexpectedly: {type(error).__name__}: {error}", _crash_log(error)))
    return USAGE


def _hint_of_store(error: Exception) -> str | None:
    from dstack.client.artifacts import disk_hint
    from dstack.snapshots.errors import DamagedStore, RestoreFailed

    if isinstance(error, RestoreFailed) and isinstance(error.__cause__, OSError):
        return disk_hint(error.__cause__)
    return _DAMAGED if isinstance(error, DamagedStore) else None


def error_text(message: str, hint: str | None) -> str:
    text = f"{paint('error:', 'red', sys.stderr)} {harmless(message)}\n"
    return text + f"  hint: {harmless(hint)}\n" if hint else text


def api_error_text(error: ApiError) -> str:
    """All diagnostics of an answer at once, or its message."""
    if not error.diagnostics:
        return error_text(error.message, error.hint)
    text = diagnostics_text(error.diagnostics)
    return text + f"  hint: {error.hint}\n" if error.hint else text


def click_error_text(error: object) -> str:
    import click

    assert isinstance(error, click.ClickException)
    if isinstance(error, click.UsageError) and error.ctx is not None and error.message == error.ctx.get_help():
        return error.message + "\n"  # a group was named without a command
    text = error_text(_backticks(error.format_message()), None)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        text += f"  hint: {error.ctx.command_path} --help\n"
    return text


def _backticks(text: str) -> str:
    """click quotes names as 'NAME'; everything else here as `NAME`."""
    import re

    return re.sub(r"(?<!\w)'([^'\n]*)'(?!\w)", r"`\1`", text)


def near(name: str, known: list[str], cutoff: float = 0.6) -> str | None:
    """A hint that offers what `name` may have meant."""
    import difflib

    close = difflib.get_close_matches(name, known, n=3, cutoff=cutoff)
    return "did you mean " + " or ".join(f"`{other}`" for other in close) + "?" if close else None


def _server_hint() -> str:
    from dstack.embedded import home_folder, log_path

    target = choose(home_folder())
    if target.address:
        return f"it is {target.address}, by {target.origin}; is that server up?"
    return f"see {log_path(home_folder())}"


def _crash_log(error: BaseException) -> str:
    import time
    import traceback

    from dstack.embedded import home_folder

    details = "".join(traceback.format_exception(error))
    path = f"{home_folder()}/cli/crash-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"dstack {' '.join(sys.argv[1:2])}, Python {sys.version}\n{details}")
    except OSError as problem:
        last = details.rstrip().splitlines()[-3:]
        return f"this is a defect of dstack; its details could not be written ({problem}): " + " | ".join(last)
    return f"this is a defect of dstack; please report it with {path}"


def _say(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        pass  # the terminal is gone; the exit code still tells


def forget_stdout() -> None:
    """Nobody takes it any more: keep the interpreter from flushing it at its end."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
