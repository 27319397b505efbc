"""`dstack stop`: ask runs, or a job of one, to end."""

from __future__ import annotations

import click

from dstack.cli.arguments import current_repository, given_name, run_and_job
from dstack.cli.errors import UserError
from dstack.cli.questions import listed, make_sure
from dstack.cli.render import count, say, write_json
from dstack.cli.session import Session
from dstack.client.api import Api, ApiError, Unreachable
from dstack.client.types import Run


@click.command()
@click.argument("run", metavar="RUN[/JOB]", required=False, type=given_name)
@click.argument("job", required=False, type=given_name)
@click.option("-a", "--all", "everything", is_flag=True, help="All unfinished runs of this repository that are yours.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("-x", "--abort", is_flag=True, help="At once, without saving what its jobs have written.")
@click.option("--json", "as_json", is_flag=True, help="The runs as they are now, as a list of objects.")
def stop(run: str | None, job: str | None, everything: bool, yes: bool, abort: bool, as_json: bool) -> None:
    """Stop RUN, or its JOB only: processes get SIGTERM, time to end, and then SIGKILL; artifacts are saved.

    Jobs that depend on one that is stopped do not begin.
    """
    if run and everything:
        raise UserError(
            f"{run} is one run, and `-a` means all of yours",
            f"to stop it: dstack stop {run}; to abort it: dstack stop --abort {run}",
        )
    if not run and not everything:
        raise click.UsageError("name a RUN, or `--all`")
    session = Session()
    with session.api as api:
        asked = [run_and_job(run, job)] if run else [(name, None) for name in _unfinished(session)]
        names = ["/".join(filter(None, parts)) for parts in asked]
        if asked and not yes:
            _ask(names, "--all" if everything else " ".join(filter(None, asked[0])), abort=abort)
        if everything:
            stopped = _stop_each(api, names, abort=abort, as_json=as_json)
        else:
            stopped = [api.stop(name, job=only, abort=abort) for name, only in asked]
    if as_json:
        write_json(stopped)
    elif not names:
        say("You have no unfinished run here.")
    elif not everything:
        _tell(names[0], stopped[0], abort=abort)
    left = len(names) - len(stopped)
    if left:
        raise UserError(f"{count(left, 'run')} of {len(names)} could not be asked to stop", exit_code=1)


def _stop_each(api: Api, names: list[str], *, abort: bool, as_json: bool) -> list[Run]:
    """Ask all of them, whatever the server says of some, and tell of each at once; the runs as they are now."""
    stopped: list[Run] = []
    for name in names:
        try:
            item = api.stop(name, abort=abort)
        except ApiError as error:
            say(f"{name}: not asked to stop: {error.message}" + (f"\n  hint: {error.hint}" if error.hint else ""))
            continue
        except Unreachable:
            if as_json:
                write_json(stopped)
            raise
        stopped.append(item)
        if not as_json:
            _tell(name, item, abort=abort)
    return stopped


def _unfinished(session: Session) -> list[str]:
    found = session.api.runs(repository=current_repository(), active=True)
    return [item.get("name", "") for item in found if item.get("user") == session.user]


def _ask(names: list[str], words: str, *, abort: bool) -> None:
    told = listed(names)
    several = len(names) > 1
    these = f"{count(len(names), 'run')} ({told})" if several else told
    make_sure(
        f"{'Abort' if abort else 'Stop'} {these}?",
        not_done=f"{told} {'are' if several else 'is'} not {'aborted' if abort else 'stopped'}",
        left=f"{told} {'were' if several else 'was'} left alone",
        hint=f"dstack stop -y {'--abort ' if abort else ''}{words}",
    )


def _tell(name: str, run: Run, *, abort: bool) -> None:
    message = run.get("message")
    say(f"{name}: {message}" if message else f"{name}: {'aborting' if abort else 'stopping'}")
