"""`dstack run`: submit a workflow of this repository and follow it. The hot path: standard library only."""

from __future__ import annotations

import os
import sys

from dstack.cli.errors import USAGE as USAGE_ERROR
from dstack.cli.options import RunOptions, parse
from dstack.cli.render import plain_table, say, write_json
from dstack.cli.session import Session
from dstack.cli.shipping import Shipping
from dstack.client.api import ApiError
from dstack.client.environment import allowed_environment, find_python
from dstack.client.repository import identify, read_files, require_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dstack.client.types import Run, Submission

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
  -y, --yes       Ship the code without a question, however much it is.
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
        try:
            return _run(options, root, session)
        except ApiError as error:
            if not (options.json and error.diagnostics):
                raise
            write_json(error.diagnostics)
            return USAGE_ERROR


def _run(options: RunOptions, root: str, session: Session) -> int:
    # git lists the files, and the server is looked for, while everything else is read.
    shipping = Shipping(root, session, agreed=options.yes)
    session.begin()
    submission = _prepare(options, root, session)
    shipping.ship(submission)
    if options.plan:
        from dstack.cli.plan import show_plan

        return show_plan(session.api, submission, as_json=options.json)
    submitted = _submit(session, submission, shipping)
    if options.detach:
        return _detached(submitted, as_json=options.json)
    return _attached(session, submitted, root, as_json=options.json)


def _prepare(options: RunOptions, root: str, session: Session) -> Submission:
    """What is sent, without the code."""
    return {
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


def _submit(session: Session, submission: Submission, shipping: Shipping) -> Run:
    """Submit once: the key makes every repetition the same run."""
    key = os.urandom(16).hex()
    try:
        return session.api.submit(submission, key)
    except ApiError as error:
        if error.code not in ("code-missing", "storage"):
            raise
    # The server lost, or was never given, what the cache says it has.
    shipping.ship(submission, again=True)
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


def _attached(session: Session, submitted: Run, root: str, *, as_json: bool) -> int:
    from dstack.cli.attach import attach

    if not as_json:
        _show_table(submitted)
    session.accept_newer_server()
    return attach(session.api, submitted, as_json=as_json, root=root)


def _show_table(run: Run) -> None:
    """The run as it was accepted, on stderr: stdout is the job's."""
    row = [run.get("name", ""), run.get("workflow", ""), run.get("status_text", ""), ", ".join(run.get("tags", []))]
    sys.stderr.write(plain_table(["RUN", "WORKFLOW", "STATUS", "TAG"], [row]))
    sys.stderr.flush()
