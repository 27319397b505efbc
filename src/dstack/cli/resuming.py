"""What `dstack resume` and `dstack restart` share: a new run that follows an earlier one, submitted and followed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import click

from dstack.cli import given
from dstack.cli.arguments import moment
from dstack.cli.errors import USAGE, UserError
from dstack.cli.render import say, write_json
from dstack.cli.session import Session
from dstack.cli.shipping import Shipping
from dstack.cli.submitting import send, stay
from dstack.cli.tagged import run_named
from dstack.client.api import ApiError
from dstack.client.environment import allowed_environment, find_python
from dstack.client.repository import find_root, identify, read_files, require_root
from dstack.client.sent import Given, Submission, Wish

NOTHING_TO_DO = "nothing-to-do"
_OPTIONS = (
    click.option("-d", "--detach", is_flag=True, help="Submit and return at once."),
    click.option("-t", "--tag", "tags", multiple=True, metavar="TAG", help="Tag it when it is done. Repeatable."),
    click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Change a variable. Repeatable."),
    click.option("--with-local-changes", is_flag=True, help="Use the code and workflow files as they are here now."),
    click.option(
        "--at",
        "when",
        metavar="TIME|SNAPSHOT",
        help="Begin with what was saved by then: 5m or 2h ago, a time, or a snapshot.",
    ),
    click.option("-c", "--fresh", "--clear", is_flag=True, help="Begin without the last snapshots."),
    click.option("--plan", is_flag=True, help="Show what is reused and what starts from where; run nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print data as JSON; a job's output goes to stderr."),
    click.option(
        "-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="A value for the jobs; without one, the shell's own."
    ),
    click.option("--env-file", "env_files", multiple=True, metavar="FILE", help="Such values from a file. Repeatable."),
    click.option("--repo", metavar="DIR", help="The repository, where it is not this folder's."),
    click.option("-y", "--yes", is_flag=True, help="Ship the code without a question, however much it is."),
)


def with_options(command: Callable[..., int]) -> Callable[..., int]:
    """Both commands' options, in one order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class _Local(NamedTuple):
    """Today's code and workflow files, sent."""

    root: str
    changes: Submission
    shipping: Shipping

    def ship_again(self) -> None:
        self.shipping.ship(self.changes, again=True)


def follow_on(run: str, *, restart: bool, job: str | None = None, **options: Any) -> int:
    """The whole command; its exit code. `options` are those of `with_options`."""
    if options["repo"] and not options["with_local_changes"]:
        raise UserError("`--repo` names the code of `--with-local-changes`", "give both, or neither")
    if options["when"] and options["fresh"]:
        raise click.UsageError("--fresh begins without what was saved, --at with it: give one of them")
    at, snapshot = moment(options["when"])
    session = Session()
    with session.api as api:
        name = run_named(api, run)
        of_run = api.given(name)
        local = _send_local(session, of_run, options) if options["with_local_changes"] else None
        wish = _wish(session, of_run, local, restart=restart, job=job, options=options)
        wish["at"], wish["snapshot"] = at, snapshot
        try:
            return _carry_out(session, name, wish, local, options)
        except ApiError as error:
            if options["as_json"] and error.diagnostics:
                write_json(error.diagnostics)
                return USAGE
            if error.code != NOTHING_TO_DO:
                raise
            if options["as_json"]:
                write_json([])
            say(f"{error.message}\n  hint: {error.hint}" if error.hint else error.message)
            return 0


def _carry_out(session: Session, name: str, wish: Wish, local: _Local | None, options: dict[str, Any]) -> int:
    ship_again = local.ship_again if local is not None else None
    if options["plan"]:
        from dstack.cli.plan import show

        plan = send(lambda: session.api.plan_resume(name, wish), ship_again)
        sent = local.shipping.sent if local is not None else 0
        origins = given.origins(options["env"], options["env_files"])
        return show(plan, sent=sent, as_json=options["as_json"], given=origins)
    key = os.urandom(16).hex()  # which makes every repetition the same run
    submitted = send(lambda: session.api.resume(name, wish, key), ship_again)
    root = local.root if local is not None else find_root()
    tags, as_json, detach = options["tags"], options["as_json"], options["detach"]
    return stay(session, submitted, root=root, tags=tags, as_json=as_json, detach=detach)


def _send_local(session: Session, of_run: Given, options: dict[str, Any]) -> _Local:
    root = require_root(options["repo"])
    shipping = Shipping(root, session, agreed=options["yes"])
    session.begin()
    changes: Submission = {
        "workflow": of_run.get("workflow", ""),
        "files": read_files(root),
        "repository": identify(root),
        "python": find_python(f"{session.home}/cli/pythons.json", folder=root),
    }
    shipping.ship(changes)
    return _Local(root, changes, shipping)


def _wish(
    session: Session,
    of_run: Given,
    local: _Local | None,
    *,
    restart: bool,
    job: str | None,
    options: dict[str, Any],
) -> Wish:
    # The first run's values were gone with its end: the shell's are given anew.
    known = of_run.get("values", [])
    changes = local.changes if local is not None else None
    files = changes.get("files", {}) if changes is not None else {}
    root = local.root if local is not None else None
    arguments, values = given.given(options["env"], options["env_files"], files, root=root, known=known)
    environment = allowed_environment()
    # What held a credential was not kept, and is not in the allow-list of every version.
    environment |= {name: os.environ[name] for name in of_run.get("shell", []) if name in os.environ}
    return {
        "restart": restart,
        "job": job,
        "fresh": options["fresh"],
        "set": list(options["assignments"]),
        "args": [word for name in arguments[1::2] if name not in known for word in ("-e", name)],
        "values": values,
        "environment": environment,
        "python": changes.get("python") if changes is not None else None,
        "changes": changes,
        "tags": list(options["tags"]),
        "user": session.user,
        "host": os.uname().nodename,
    }
