"""`dstack run`: submit a workflow of this repository and follow it. The hot path: standard library only."""

from __future__ import annotations

import os
import sys

from dstack.cli.errors import USAGE as USAGE_ERROR
from dstack.cli.errors import near
from dstack.cli.options import RunOptions, parse
from dstack.cli.render import write_json
from dstack.cli.session import Session
from dstack.cli.shipping import Shipping
from dstack.cli.submitting import send, stay
from dstack.client.api import ApiError
from dstack.client.environment import allowed_environment, find_python
from dstack.client.repository import RepositoryError, current_folder, identify, read_files, real_path, require_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dstack.client.sent import Submission

USAGE = """\
Usage: dstack run [OPTIONS] NAME [ARGUMENTS]...

  Run a workflow of .dstack/workflows.yaml and follow its output. NAME may also
  be a provider: dstack run python train.py, dstack run bash -c 'make all'.

  ARGUMENTS set variables of the workflow (--epochs 20) or options of its
  provider; whatever follows -- goes to the workflow's program as it is.

Options, before or after NAME:
  -d, --detach    Submit and return at once.
  -t, --tag TAG   Tag the run's artifacts when it is done. Repeatable.
  --plan          Show what would run and what would be reused; run nothing.
  --json          Print data as JSON; a job's output goes to stderr.
  -e, --env NAME[=VALUE]
                  A variable for NAME's job; without a value, the shell's own.
                  Values are encrypted, and gone when the run has ended.
  --env-file FILE Such variables from a file of NAME=VALUE lines. Repeatable.
  --repo DIR      The folder that holds .dstack/ (default: from here upwards).
  --pull          At the end fetch the artifacts into the repository's folder;
                  files that you changed stay, unless -f or --force is given.
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
    root, missing = _find_root(options)
    if options.later:
        options = parse(words, _declared(root, options.later))
    if options.workflow is None or options.help:
        from dstack.cli.workflows import show_help, show_workflows

        return show_help(root, options.workflow) if options.workflow else show_workflows(root, as_json=options.json)
    session = Session()
    with session.api:
        if missing is not None:
            _require_provider(session, options.workflow, missing)
        try:
            return _run(options, root, session)
        except ApiError as error:
            if not (options.json and error.diagnostics):
                raise
            write_json(error.diagnostics)
            return USAGE_ERROR


def _find_root(options: RunOptions) -> tuple[str, RepositoryError | None]:
    """The repository's folder; where there is none, the one whose code a provider alone can run, and what is missing.

    Raises RepositoryError.
    """
    try:
        return require_root(options.repo), None
    except RepositoryError as error:
        folder = real_path(options.repo or current_folder())
        if options.workflow is None or not os.path.isdir(folder):
            raise
        return folder, error


def _require_provider(session: Session, name: str, missing: RepositoryError) -> None:
    """Ask whether `name` is a provider, before the code of a folder is sent that is no repository."""
    providers = session.api.validate({}).get("providers", [])
    if name not in providers:
        raise RepositoryError(missing.message, near(name, providers, cutoff=0.75) or missing.hint)


def _declared(root: str, words: list[str]) -> set[str]:
    """Those of `words` that the repository's files declare as variables."""
    from dstack.client.names import declares

    names = declares(root, [word[2:] for word in words])
    return {word for word in words if word[2:] in names}


def _run(options: RunOptions, root: str, session: Session) -> int:
    # git lists the files, and the server is looked for, while everything else is read.
    shipping = Shipping(root, session, agreed=options.yes)
    session.begin()
    submission = _prepare(options, root, session)
    shipping.ship(submission)

    def ship_again() -> None:
        shipping.ship(submission, again=True)

    if options.plan:
        from dstack.cli.plan import show

        plan = send(lambda: session.api.plan(submission), ship_again)
        return show(plan, sent=shipping.sent, as_json=options.json, given=_origins(options))
    key = os.urandom(16).hex()  # which makes every repetition the same run
    submitted = send(lambda: session.api.submit(submission, key), ship_again)
    code = stay(session, submitted, root=root, tags=options.tags, as_json=options.json, detach=options.detach)
    if options.pull and code == 0:
        from dstack.cli.pull import pull

        return pull(session, submitted.get("name", ""), root, force=options.force)
    return code


def _prepare(options: RunOptions, root: str, session: Session) -> Submission:
    """What is sent, without the code."""
    files = read_files(root)
    named, values = _given(options, root, files)
    return {
        "workflow": options.workflow or "",
        "args": [*named, *options.arguments],
        "files": files,
        "repository": identify(root),
        "environment": allowed_environment(),
        "values": values,
        "python": find_python(f"{session.home}/cli/pythons.json", folder=root),
        "tags": options.tags,
        "user": session.user,
        "host": os.uname().nodename,
        "dstack_options": {"detach": options.detach},
    }


def _given(options: RunOptions, root: str, files: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """(arguments that name what `-e` and `--env-file` give, values of that and of what the files ask for)."""
    if not (options.env or options.env_files or any("env" in text for text in files.values())):
        return [], {}
    from dstack.cli.given import given

    return given(options.env, options.env_files, files, root=root)


def _origins(options: RunOptions) -> dict[str, str]:
    """Where the values come from that are given by name and are not those of the shell."""
    if not (options.env or options.env_files):
        return {}
    from dstack.cli.given import origins

    return origins(options.env, options.env_files)
