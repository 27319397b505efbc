"""`dstack run`: submit a workflow of this repository and follow it. The hot path: standard library only."""

from __future__ import annotations

import os
import sys

from dstack.cli.errors import UserError
from dstack.cli.options import RunOptions, parse
from dstack.cli.render import plain_table, say, write_json
from dstack.cli.session import Session
from dstack.client.api import ApiError
from dstack.client.code import CodeCache, Listing, ship_code
from dstack.client.environment import allowed_environment, find_python
from dstack.client.repository import identify, read_files, require_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dstack.client.types import CodeRef, Run, Submission

    Ship = Callable[[bool], CodeRef]

USAGE = """\
Usage: dstack run [OPTIONS] NAME [ARGUMENTS]...

  Run a workflow of .dstack/workflows.yaml and follow its output.

  ARGUMENTS set variables of the workflow (--epochs 20) or options of its
  provider; whatever follows -- goes to the workflow's program as it is.

Options, before or after NAME:
  -d, --detach    Submit and return at once.
  -t, --tag TAG   Tag the run's artifacts when it is done. Repeatable.
  --plan          Show what would run and what would be reused; run nothing.
  --json          Print data as JSON; a job's output goes to stderr.
  --repo DIR      The folder that holds .dstack/ (default: from here upwards).
  -h, --help      This text; after NAME, the workflow's variables too.

Exit code: the failing job's own; 0 done or detached; 2 not accepted;
119 setup failed; 120 no capacity or runner lost; 121 artifacts not saved;
122 stopped; 124 time limit; 125 unknown; 130 and 143 interrupted here.
"""


def run(words: list[str]) -> int:
    """The whole command; its exit code."""
    options = parse(words)
    if options.help and options.workflow is None:
        sys.stdout.write(USAGE)
        return 0
    root = require_root(options.repo)
    if options.workflow is None or options.help:
        from dstack.cli.workflows import show_help, show_workflows

        return show_help(root, options.workflow) if options.workflow else show_workflows(root, as_json=options.json)
    session = Session()
    with session.api:
        return _run(options, root, session)


def _run(options: RunOptions, root: str, session: Session) -> int:
    # git lists the files, and the server is looked for, while everything else is read.
    submission, ship = _prepare(options, root, session)
    submission["code"] = ship(False)
    if options.plan:
        from dstack.cli.plan import show_plan

        return show_plan(session.api, submission, as_json=options.json)
    submitted = _submit(session, submission, ship)
    if options.detach:
        return _detached(submitted, as_json=options.json)
    return _attached(session, submitted, as_json=options.json)


def _prepare(options: RunOptions, root: str, session: Session) -> tuple[Submission, Ship]:
    """What is sent, without the code, and a function that ships the code."""
    listing = Listing(root)
    session.begin()
    submission: Submission = {
        "workflow": options.workflow or "",
        "args": options.arguments,
        "files": read_files(root),
        "repository": identify(root),
        "environment": allowed_environment(),
        "python": find_python(f"{session.home}/cli/pythons.json", folder=root),
        "tags": options.tags,
        "user": session.user,
        "host": os.uname().nodename,
        "dstack_options": {"detach": options.detach},
    }
    cache = CodeCache(f"{session.home}/cli/stat-cache", root, session.address)

    def save(folder: str, paths: Sequence[str], cache_file: str) -> CodeRef:
        from dstack.client.store import save_code

        return save_code(session.api, folder, paths, cache_file)

    def ship(again: bool) -> CodeRef:
        if again:
            cache.forget()
        return ship_code(root, Listing(root) if again else listing, cache, save, _confirm)

    return submission, ship


def _submit(session: Session, submission: Submission, ship: Ship) -> Run:
    """Submit once: the key makes every repetition the same run."""
    key = os.urandom(16).hex()
    try:
        return session.api.submit(submission, key)
    except ApiError as error:
        if error.code not in ("code-missing", "storage"):
            raise
    # The server lost, or was never given, what the cache says it has.
    submission["code"] = ship(True)
    return session.api.submit(submission, key)


def _detached(submitted: Run, *, as_json: bool) -> int:
    name = submitted.get("name", "")
    if as_json:
        write_json([submitted])
    elif os.isatty(1):
        _show_table(submitted)
        say(f"Follow it with: dstack logs -f {name}")
    else:
        sys.stdout.write(f"{name}\n")
    return 0


def _attached(session: Session, submitted: Run, *, as_json: bool) -> int:
    from dstack.cli.attach import attach

    if not as_json:
        _show_table(submitted)
    session.accept_newer_server()
    return attach(session.api, submitted, as_json=as_json)


def _show_table(run: Run) -> None:
    """The run as it was accepted, on stderr: stdout is the job's."""
    row = [run.get("name", ""), run.get("workflow", ""), run.get("status_text", ""), ", ".join(run.get("tags", []))]
    sys.stderr.write(plain_table(["RUN", "WORKFLOW", "STATUS", "TAG"], [row]))
    sys.stderr.flush()


def _confirm(files: int, size: int, largest: Sequence[tuple[int, str]]) -> bool:
    """Ask before much code is shipped."""
    from dstack.cli.interrupts import has_terminal
    from dstack.cli.render import size_words

    say(f"The code of this run is {files} files, {size_words(size)}. The largest:")
    for file_size, path in largest:
        say(f"  {size_words(file_size):>9}  {path}")
    if os.environ.get("DSTACK_LARGE_CODE") == "1":
        return True
    if not has_terminal():
        raise UserError(
            f"not shipped without asking: {files} files, {size_words(size)}",
            "name what a run does not need in .dstackignore, or set DSTACK_LARGE_CODE=1",
        )
    sys.stderr.write("Ship all of it? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
