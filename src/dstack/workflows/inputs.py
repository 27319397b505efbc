"""What reused dependencies bring: artifacts of earlier runs, asked for once each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dstack.workflows.dependencies import Dependency
from dstack.workflows.diagnostics import Report, UnknownTag
from dstack.workflows.model import ReusedInput, Workflow

ResolveTag = Callable[[str | None, str], list[ReusedInput]]
"""(workflow or None, tag) → what it points at; raises UnknownTag, as the others do."""
NewestDone = Callable[[str], list[ReusedInput]]
"""workflow → what its newest successful run made."""
Elsewhere = Callable[[str, str | None, str | None], list[ReusedInput]]
"""(repository, workflow or None, tag or None) → the same of another repository."""

LATEST = "latest"
"""The tag that, where nobody set it, means the newest run that ended well."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Who knows what earlier runs made."""

    resolve_tag: ResolveTag
    newest_done: NewestDone
    elsewhere: Elsewhere | None = None


class Inputs:
    """What reused dependencies bring; each is asked for once per run."""

    def __init__(self, sources: Sources, report: Report) -> None:
        self.sources = sources
        self.report = report
        self.found: dict[str, list[ReusedInput] | UnknownTag] = {}

    def of(self, workflow: Workflow, needed: Sequence[Dependency]) -> tuple[ReusedInput, ...]:
        """The inputs of `workflow` from earlier runs, one for each path."""
        chosen: dict[str, ReusedInput] = {}
        for dependency in needed:
            if dependency.kind == "run":
                continue
            found = self._ask(dependency)
            if isinstance(found, UnknownTag):
                self._report_unknown(workflow, dependency, found)
                continue
            for item in found:
                other = chosen.setdefault(item.path, item)
                if other.content_id != item.content_id:
                    message = (
                        f"`{dependency}` (run {item.run_name}) and run {other.run_name} "
                        f"bring different files for `{item.path}`"
                    )
                    dependency.tell(workflow.source, message, "depend on one of them only", self.report)
                elif item.partial:
                    message = f"`{item.path}` of run {item.run_name} is partial: its job did not end well"
                    dependency.tell(workflow.source, message, "", self.report, "warning")
            for warning in dict.fromkeys(item.warning for item in found if item.warning):
                dependency.tell(workflow.source, warning, "", self.report, "warning")
        return tuple(chosen.values())

    def _ask(self, dependency: Dependency) -> list[ReusedInput] | UnknownTag:
        key = str(dependency)
        if key not in self.found:
            try:
                self.found[key] = self._look(dependency)
            except UnknownTag as error:
                self.found[key] = error
        return self.found[key]

    def _look(self, dependency: Dependency) -> list[ReusedInput]:
        sources, workflow, tag = self.sources, dependency.workflow, dependency.tag
        if dependency.repository is not None:
            if sources.elsewhere is None:
                raise UnknownTag(why="nothing is known of other repositories here")
            return sources.elsewhere(dependency.repository, workflow, tag)
        return sources.resolve_tag(workflow, tag) if tag is not None else sources.newest_done(workflow or "")

    def _report_unknown(self, workflow: Workflow, dependency: Dependency, error: UnknownTag) -> None:
        report = self.report
        if error.why:
            message = f"`{dependency}` cannot be had: {error.why}"
            hint = ""
        elif dependency.tag is None:
            message = f"no run of `{dependency}` has ended well yet"
            hint = f"run `dstack run {dependency.workflow}` first"
            if dependency.repository is not None:
                hint += f", in {dependency.repository}"
        else:
            message = f"there is no tag `{dependency}`"
            hint = report.near(dependency.tag, error.known)
            if not hint and error.known:
                hint = f"known: {', '.join(error.known[:10])}"
            elif not hint and dependency.workflow is not None and dependency.repository is None:
                then = "" if dependency.tag == LATEST else f", then `dstack tag RUN {dependency.tag}`"
                hint = f"run `dstack run {dependency.workflow}`{then or ' first'}"
        dependency.tell(workflow.source, message, hint, report)
