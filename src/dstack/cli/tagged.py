"""Runs, and what they have saved, by the tags that people gave them."""

from __future__ import annotations

import re

from dstack.cli.arguments import current_repository, run_or_tag
from dstack.cli.errors import UserError, near
from dstack.client.api import ApiError
from dstack.client.sources import ArtifactError, Source, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from dstack.client.api import Api

_RUN_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")


def may_name_run(text: str) -> bool:
    """Whether a word can be meant as RUN, RUN/JOB, :TAG, WORKFLOW:TAG or one with a path or a snapshot behind it."""
    return _RUN_NAME.fullmatch(text) is not None or any(mark in text for mark in ":/@")


def run_named(api: Api, text: str) -> str:
    """The name of the run that `RUN`, `:TAG` or `WORKFLOW:TAG` means. Raises UserError, ApiError, Unreachable."""
    workflow, colon, _ = text.partition(":")
    if not colon:
        return text
    _, tag = run_or_tag(text[len(workflow) :])
    tags = api.tags(repository=current_repository())
    named = {row.get("workflow", ""): row.get("run", "") for row in tags if row.get("name") == tag}
    found = {name: run for name, run in named.items() if workflow in ("", name)}
    if not found:
        known = {f":{row.get('name')}" for row in tags}
        raise no_tag(f"{workflow}:{tag}" if named else f":{tag}", known)
    if len(set(found.values())) > 1:
        means = ", ".join(f"{name}:{tag} is {run}" for name, run in sorted(found.items()))
        raise UserError(f"`{text}` names several runs: {means}", f"write one of them, such as `{min(found)}:{tag}`")
    return next(iter(found.values()))


def source_named(api: Api, source: Source) -> Source:
    """`source`, or what it says as `WORKFLOW:TAG`, with whatever stands behind a tag, and not as `RUN:PATH`.

    A run goes before a workflow of the same name.

    Raises UserError, ApiError, Unreachable.
    """
    workflow = source.run
    if workflow is None or not source.text.startswith(f"{workflow}:"):
        return source
    try:
        tagged = parse(source.text[len(workflow) :])
    except ArtifactError:
        return source
    tags = api.tags(repository=current_repository())
    names = {row.get("name") for row in tags if row.get("workflow") == workflow}
    if names and _RUN_NAME.fullmatch(workflow) and _is_run(api, workflow):
        return source
    if tagged.tag in names:
        return tagged._replace(text=source.text, workflow=workflow)
    if names:
        raise no_tag(f"{workflow}:{tagged.tag}", {f"{workflow}:{name}" for name in names})
    return source


def _is_run(api: Api, name: str) -> bool:
    try:
        api.run(name)
    except ApiError as error:
        if error.status != 404:
            raise
        return False
    return True


def no_tag(missing: str, known: Collection[str]) -> UserError:
    hint = near(missing, sorted(known)) or (f"tags: {', '.join(sorted(known)[:10])}" if known else "no tag is set")
    return UserError(f"there is no tag `{missing}` in this repository", hint)
