"""Runs by the tags that people gave them, where a command takes one run."""

from __future__ import annotations

from dstack.cli.arguments import current_repository, run_or_tag
from dstack.cli.errors import UserError, near

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dstack.client.api import Api


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
        missing = f"{workflow}:{tag}" if named else f":{tag}"
        known = sorted({f":{row.get('name')}" for row in tags})
        hint = near(missing, known) or (f"tags: {', '.join(known[:10])}" if known else "no tag is set")
        raise UserError(f"there is no tag `{missing}` in this repository", hint)
    if len(set(found.values())) > 1:
        means = ", ".join(f"{name}:{tag} is {run}" for name, run in sorted(found.items()))
        raise UserError(f"`{text}` names several runs: {means}", f"write one of them, such as `{min(found)}:{tag}`")
    return next(iter(found.values()))
