"""`{{ name }}` where `${{ name }}` was meant: it is no mistake of YAML, and reaches the job as it is."""

from __future__ import annotations

import re
from collections.abc import Collection

from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.variables import Variables, canonical

_BRACES = re.compile(r"(?<!\$)\{\{[ \t]*([A-Za-z_][A-Za-z0-9_-]*)[ \t]*\}\}")
_COMMENT = re.compile(r"(?:^|\s)#")


def check(source: Source, variables: Variables, report: Report) -> None:
    """Warn of the first `{{ name }}` of each variable in a file; other names may be another program's."""
    if "{{" not in source.text:
        return
    declared: Collection[str] = {*variables.everywhere, *(name for own in variables.sections.values() for name in own)}
    told: set[str] = set()
    for match in _BRACES.finditer(source.text):
        name = canonical(match[1])
        if name not in declared or name in told:
            continue
        at = source.position(match.start())
        if _COMMENT.search(source.line(at[0])[: at[1] - 1]) is None:
            told.add(name)
            report.warning(source, at, f"`{match[0]}` is no expression: it stays as it is", f"write `${match[0]}`")
