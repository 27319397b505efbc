"""What people are told about wrong files and words of the command line, as a terminal shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dstack.providers import registry
from dstack.workflows import Diagnostic, Invalid, ReusedInput, UnknownTag, load, plan, render

NOTHING = "nothing"


def told(files: Mapping[str, str], arguments: Sequence[str]) -> str:
    """What `dstack run ARGUMENTS` says of `files`; without arguments what `dstack validate` says.

    No code is there but what of `files` lies outside of `.dstack`, no secret but `KNOWN`, no value of the shell, and no
    tag but `latest` and `v1`.
    """
    return "".join(f"{render(diagnostic)}\n" for diagnostic in _diagnostics(files, arguments)) or f"{NOTHING}\n"


def _diagnostics(files: Mapping[str, str], arguments: Sequence[str]) -> Sequence[Diagnostic]:
    try:
        workflows = load(files, registry())
        if not arguments:
            return workflows.warnings
        return plan(
            workflows,
            arguments[0],
            arguments[1:],
            run_name="run-1",
            read_text=lambda path: None if path.startswith(".dstack/") else files.get(path),
            resolve_tag=_resolve_tag,
            newest_done=_newest_done,
            secrets={"KNOWN"},
            values=set(),
        ).warnings
    except Invalid as error:
        return error.diagnostics


def _resolve_tag(workflow: str | None, tag: str) -> list[ReusedInput]:
    raise UnknownTag(["latest", "v1"] if workflow else [])


def _newest_done(workflow: str) -> list[ReusedInput]:
    raise UnknownTag
