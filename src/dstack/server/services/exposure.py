"""Credentials that were typed where everybody sees them: in a workflow file or on the command line.

Both are stored and shown, so a submission that holds the value of a secret is refused; in the difference from the
commit, which is kept for people, it is masked. Only secrets whose names say that they are credentials are looked for:
the value of a `REGION` may stand anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from dstack import workflows
from dstack.domain.credentials import names_credential
from dstack.logs.masking import MASK
from dstack.server.services import secrets
from dstack.server.services.context import Context

MIN_VALUE = 8
MIN_LINE = 20
"""Characters of a line, without a blank, by which a value of several lines is known."""
_SHOWN = 200


class Telling:
    """The texts by which credentials are known, and the names of these."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def check(self, files: Mapping[str, str], args: Sequence[str]) -> None:
        """Raises `workflows.Invalid` with every place that holds a credential; it shows none."""
        findings = [*self._in_files(files), *self._in_arguments(args)]
        if findings:
            raise workflows.Invalid(findings)

    def masked(self, text: str) -> str:
        """`text` without credentials."""
        for part in self._names:
            text = text.replace(part, MASK.decode())
        return text

    def _in_files(self, files: Mapping[str, str]) -> Iterator[workflows.Diagnostic]:
        for file, text in files.items():
            for part, name in self._names.items():
                at = text.find(part)
                if at < 0:
                    continue
                begin = text.rfind("\n", 0, at) + 1
                line = text[begin:].split("\n", 1)[0]
                yield workflows.Diagnostic(
                    "error", file, text.count("\n", 0, at) + 1, at - begin + 1,
                    f"the value of the secret `{name}` stands here, where everybody can read it",
                    self.masked(line)[:_SHOWN],
                    f"write `${{{{ secrets.{name} }}}}`, and let the secret have a new value: this one is known",
                )  # fmt: skip

    def _in_arguments(self, args: Sequence[str]) -> Iterator[workflows.Diagnostic]:
        for word in args:
            name = next((name for part, name in self._names.items() if part in word), None)
            if name is not None:
                message = f"`{self.masked(word)[:_SHOWN]}` holds the value of the secret `{name}`"
                hint = f"name it in the workflow, `${{{{ secrets.{name} }}}}`: arguments are stored and shown"
                yield workflows.Diagnostic("error", None, None, None, message, "", hint)


def telling(context: Context, repository_id: UUID | None, given: Mapping[str, str]) -> Telling:
    """What tells of the repository's secrets, and of the values that are `given` with a run, which belong to it alone.

    Raises SealingError where secrets cannot be opened.
    """
    known = dict(given)
    if repository_id is not None:
        found = context.database.read(lambda tx: secrets.opened(tx, context, repository_id))
        known.update((name, value.decode()) for name, value in found.items())
    return Telling({part: name for name, value in known.items() if names_credential(name) for part in _parts(value)})


def _parts(value: str) -> Iterator[str]:
    """What a value is known by."""
    stripped = value.strip()
    if len(stripped) >= MIN_VALUE:
        yield stripped
    lines = [line.strip() for line in stripped.splitlines()]
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= MIN_LINE and len(line.split()) == 1)
