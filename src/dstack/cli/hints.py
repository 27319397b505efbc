"""Hints on why a job failed: a pipe that was left early, a file that is here and was not shipped, a package."""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dstack.client.api import Api
    from dstack.client.types import Explanation

_PIPE = (
    "a program of a pipe still wrote when the one that reads it had ended, as in `zcat FILE | head`: "
    "commands run with `set -o pipefail`; put `set +o pipefail` before this one"
)


def hints_on_end(api: Api, name: str, root: str | None, found: Explanation | None = None) -> list[str]:
    """What to say of the end of the run `name`, submitted from the repository at `root` if that is a folder.

    `found` is the explanation of its end, where the caller has it.
    """
    cause = (found or api.explain(name)).get("root_cause")
    if not cause:
        return []
    if cause.get("exit_code") == 128 + signal.SIGPIPE:
        return [_PIPE]
    return _missed(api, name, root, cause.get("tail", [])) if root is not None else []


def _missed(api: Api, name: str, root: str, tail: list[str]) -> list[str]:
    """Files and packages that the last lines of its log name."""
    from dstack.client.missing import missing_files, missing_package, names_missed
    from dstack.client.repository import RepositoryError, identify

    names = names_missed(tail)
    if not names:
        return []
    run = api.run(name)
    if run.get("repository") != identify(root).get("key"):
        return []
    try:
        files = missing_files(root, run.get("workflow", ""), names)
    except RepositoryError:
        return []  # what cannot be read now says nothing of the run
    package = None if files else missing_package(root, tail)
    return [package] if package else files
