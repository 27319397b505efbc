"""Stay with a run until it ends, or until the person leaves: Ctrl-C asks what to do, and nothing else stops a run."""

from __future__ import annotations

import sys

from dstack.cli.errors import BROKEN_PIPE, INTERRUPTED, TERMINATED, forget_stdout
from dstack.cli.follow import Follower
from dstack.cli.interrupts import Interrupted, Interrupts, Terminated, has_terminal, wait_for_input
from dstack.cli.output import LogOutput
from dstack.cli.render import count, duration, paint, save_warnings, say, size_words, write_json
from dstack.client.api import ApiError, Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dstack.client.api import Api
    from dstack.client.types import Artifact, Run

UNKNOWN = 125
_WARNED = 3
"""Files that could not be saved of which the end of a run tells one by one."""


def attach(api: Api, run: Run, *, as_json: bool = False, root: str | None = None, tags: Sequence[str] = ()) -> int:
    """Follow `run`, submitted from `root`, to its end; the exit code. `as_json` keeps stdout for the run itself.

    `tags` are those that it is to get.
    """
    name = run.get("name", "")
    output = LogOutput(2 if as_json else 1)
    follower = Follower(api, name, output)
    follower.expect(run)
    stopped_here = False
    try:
        with Interrupts() as interrupts:
            while True:
                try:
                    ended = follower.follow(interrupts)
                    break
                except Interrupted:
                    interrupts.work()
                    # The stream was broken off anywhere; it is read on from the cursor.
                    api.drop()
                    output.end_line()
                    choice = _ask(name, interrupts)
                    if choice == "detach":
                        return _left(name, INTERRUPTED)
                    if choice == "stop":
                        api.stop(name)
                        stopped_here = True
                        say(f"Stopping {name}. Ctrl-C again leaves it to itself.")
                    if choice == "stop now":
                        api.stop(name)
                        say(f"Stopping {name}; it saves its artifacts first. See: dstack runs {name}")
                        return INTERRUPTED
    except Terminated:
        return _left(name, TERMINATED)
    except BrokenPipeError:
        forget_stdout()
        return _left(name, BROKEN_PIPE)
    _summary(ended, tags)
    if ended.get("reason") in ("exit-code", "signal"):
        _hint(api, name, root)
    if as_json:
        write_json([ended])
    if stopped_here and ended.get("status") == "stopped":
        return INTERRUPTED
    code = ended.get("exit_code")
    return UNKNOWN if code is None else code


def _ask(name: str, interrupts: Interrupts) -> str:
    """What the person wants: detach, stop, stop now (a second Ctrl-C) or continue."""
    if not has_terminal():
        return "detach"
    sys.stderr.write(f"\n{name} goes on by itself. [d]etach, [s]top it, [c]ontinue to follow? (Ctrl-C again stops) ")
    sys.stderr.flush()
    try:
        interrupts.wait()
        wait_for_input(0)
        answer = sys.stdin.readline()
        interrupts.work()
    except Interrupted:
        sys.stderr.write("\n")
        return "stop now"
    word = answer.strip().lower()
    if word in ("s", "stop", "y", "yes"):
        return "stop"
    return "continue" if word in ("c", "continue") else "detach"


def _left(name: str, code: int) -> int:
    try:
        say(f"Detached: {name} goes on. Follow it with: dstack logs -f {name}; stop it with: dstack stop {name}")
    except OSError:
        pass  # the terminal is gone, which is why we leave
    return code


def _summary(run: Run, asked_tags: Sequence[str]) -> None:
    """How it ended, where its results are and how to fetch them."""
    name, status = run.get("name", ""), run.get("status", "")
    took = duration(run.get("submitted_at"), run.get("finished_at"))
    if status == "done":
        say(f"{paint(f'{name} done', 'green', sys.stderr)} in {took}" if took else f"{name} done")
    else:
        reason = run.get("reason_text") or status
        say(f"{paint(f'{name} {status}', 'red' if status == 'failed' else 'yellow', sys.stderr)}: {reason}")
        if status == "failed":
            say(f"  why: dstack explain {name}")
    artifacts = [artifact for job in run.get("jobs", []) for artifact in job.get("artifacts", [])]
    if artifacts:
        for artifact in artifacts:
            say("  " + _artifact_words(artifact))
        _say_what_is_not_saved(run)
        say(f"  fetch: dstack artifacts download {name}")
        if status != "done":
            say(f"  go on from there: dstack resume {name}")
    if run.get("tags"):
        say(f"  tagged: {', '.join(run.get('tags', []))}")
    elif asked_tags and status != "done":
        say(f"  not tagged {', '.join(asked_tags)}: a tag is set when a run is done (dstack tag -f sets one anyway)")


def _say_what_is_not_saved(run: Run) -> None:
    found = save_warnings(run)
    for text in found[:_WARNED]:
        say(f"  {paint('warning:', 'yellow', sys.stderr)} {text}")
    if len(found) > _WARNED:
        say(f"  and more: dstack explain {run.get('name', '')}")


def _hint(api: Api, name: str, root: str | None) -> None:
    from dstack.cli.hints import hints_on_end

    try:
        for text in hints_on_end(api, name, root):
            say(f"  hint: {text}")
    except (ApiError, Unreachable):
        pass  # how the run ended has been told, and its exit code is known


def _artifact_words(artifact: Artifact) -> str:
    files, size = artifact.get("files", 0), artifact.get("size", 0)
    partial = ", partial" if artifact.get("partial") else ""
    if not files and not partial:
        partial = " (nothing was written there: is the path right?)"
    return (
        f"{artifact.get('path', '')} of {artifact.get('job', '')}: {count(files, 'file')}, {size_words(size)}{partial}"
    )
