"""What `dstack resume` and `dstack restart` share: a new run that follows an earlier one, submitted and followed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click

from dstack.cli.errors import USAGE, UserError
from dstack.cli.render import diagnostics_text, say, show_table, write_json
from dstack.cli.session import Session
from dstack.cli.shipping import Shipping
from dstack.cli.tagged import run_named
from dstack.client import env_file, values
from dstack.client.api import ApiError
from dstack.client.environment import allowed_environment, find_python
from dstack.client.repository import identify, read_files, require_root
from dstack.client.sent import Given, Submission, Wish
from dstack.client.types import Run

NOTHING_TO_DO = "nothing-to-do"
_OPTIONS = (
    click.option("-d", "--detach", is_flag=True, help="Submit and return at once."),
    click.option("-t", "--tag", "tags", multiple=True, metavar="TAG", help="Tag it when it is done. Repeatable."),
    click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Change a variable. Repeatable."),
    click.option("--with-local-changes", is_flag=True, help="Use the code and workflow files as they are here now."),
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


def follow_on(run: str, *, restart: bool, job: str | None = None, **options: Any) -> int:
    """The whole command; its exit code. `options` are those of `with_options`."""
    if options["repo"] and not options["with_local_changes"]:
        raise UserError("`--repo` names the code of `--with-local-changes`", "give both, or neither")
    session = Session()
    with session.api as api:
        name = run_named(api, run)
        given = api.given(name)
        changes, shipping = _changes(session, given, options) if options["with_local_changes"] else (None, None)
        wish = _wish(session, given, changes, restart=restart, job=job, options=options)
        try:
            return _carry_out(session, name, wish, shipping, options)
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


def _carry_out(session: Session, name: str, wish: Wish, shipping: Shipping | None, options: dict[str, Any]) -> int:
    as_json = options["as_json"]
    if options["plan"]:
        from dstack.cli.plan import show

        sent = shipping.sent if shipping is not None else 0
        return show(_sent(session.api.plan_resume, name, wish, shipping), sent=sent, as_json=as_json)
    key = os.urandom(16).hex()
    submitted: Run = _sent(lambda run, wished: session.api.resume(run, wished, key), name, wish, shipping)
    if submitted.get("warnings"):
        sys.stderr.write(diagnostics_text(submitted.get("warnings", [])))
    if options["detach"]:
        from dstack.cli.detach import detach

        return detach(session.api, submitted, as_json=as_json)
    return _attached(session, submitted, options)


def _sent(call: Callable[[str, Wish], Any], name: str, wish: Wish, shipping: Shipping | None) -> Any:
    """The answer to a wish; its code is sent once more where the server lost it."""
    try:
        return call(name, wish)
    except ApiError as error:
        changes = wish.get("changes")
        if error.code not in ("code-missing", "storage") or shipping is None or changes is None:
            raise
    shipping.ship(changes, again=True)
    return call(name, wish)


def _attached(session: Session, submitted: Run, options: dict[str, Any]) -> int:
    from dstack.cli.attach import attach

    if not options["as_json"]:
        show_table(submitted, options["tags"])
    session.accept_newer_server()
    return attach(session.api, submitted, as_json=options["as_json"], tags=options["tags"])


def _changes(session: Session, given: Given, options: dict[str, Any]) -> tuple[Submission, Shipping]:
    """Today's code and workflow files, sent."""
    root = require_root(options["repo"])
    shipping = Shipping(root, session, agreed=options["yes"])
    session.begin()
    changes: Submission = {
        "workflow": given.get("workflow", ""),
        "files": read_files(root),
        "repository": identify(root),
        "python": find_python(f"{session.home}/cli/pythons.json", folder=root),
    }
    shipping.ship(changes)
    return changes, shipping


def _wish(
    session: Session,
    given: Given,
    changes: Submission | None,
    *,
    restart: bool,
    job: str | None,
    options: dict[str, Any],
) -> Wish:
    named, brought = _values(given, changes, options)
    environment = allowed_environment()
    # What held a credential was not kept, and is not in the allow-list of every version.
    environment |= {name: os.environ[name] for name in given.get("shell", []) if name in os.environ}
    return {
        "restart": restart,
        "job": job,
        "fresh": options["fresh"],
        "set": list(options["assignments"]),
        "args": [word for name in named for word in ("-e", name)],
        "values": brought,
        "environment": environment,
        "python": changes.get("python") if changes is not None else None,
        "changes": changes,
        "tags": list(options["tags"]),
        "user": session.user,
        "host": os.uname().nodename,
    }


def _values(given: Given, changes: Submission | None, options: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """(names that are new to the run, values of all names). The first run's values were gone with its end."""
    known = given.get("values", [])
    found: dict[str, str | None] = dict.fromkeys((name for name in known if name in os.environ), None)
    try:
        from_files: dict[str, str | None] = {}
        for path in options["env_files"]:
            from_files.update(env_file.read(path))
        files = changes.get("files", {}) if changes is not None else {}
        arguments, brought = values.collect(options["env"], {**found, **from_files}, files)
    except env_file.EnvFileError as error:
        raise UserError(str(error), "lines are NAME=VALUE; quote a value that has blanks or # in it") from None
    except values.ValuesError as error:
        raise UserError(error.message, error.hint) from None
    return [name for name in arguments[1::2] if name not in known], brought
