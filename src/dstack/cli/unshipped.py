"""Hints on what a job did not find: a file that is here and was not shipped, or a package."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dstack.client.api import Api
    from dstack.client.types import Explanation


def missed(api: Api, name: str, root: str | None, found: Explanation | None = None) -> list[str]:
    """What to say of files and packages that the run `name` missed, if it was submitted from the repository at `root`.

    `found` is the explanation of its end, where the caller has it.
    """
    cause = (found or api.explain(name)).get("root_cause")
    tail = cause.get("tail", []) if cause else []
    if root is None or not tail:
        return []
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
