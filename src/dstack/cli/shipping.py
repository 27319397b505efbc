"""The code that `dstack run` sends along: asks before it is much, and says what a person should know of it."""

from __future__ import annotations

import os
import sys

from dstack.cli.errors import UserError
from dstack.cli.render import paint, say, size_words
from dstack.client.code import CodeCache, Listing, ship_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dstack.cli.session import Session
    from dstack.client.sent import CodeRef, Submission

ALWAYS = "DSTACK_LARGE_CODE"
"""Environment variable: with 1, much code is shipped without a question."""


class Shipping:
    """Begins with looking for the files; `ship` then completes a submission, and may be called again."""

    def __init__(self, root: str, session: Session, *, agreed: bool) -> None:
        """`agreed`: ask nothing. Raises RepositoryError."""
        self._listing = Listing(root, session.home)
        self._session = session
        self._agreed = agreed or os.environ.get(ALWAYS) == "1"
        self._told: set[str] = set()
        self.sent = 0
        """Bytes of code that the server did not have."""

    def ship(self, submission: Submission, *, again: bool = False) -> None:
        """Put the code's snapshot and what it has beyond the commit into `submission`.

        `again`: the server does not have what it was given, or lost it. Raises RepositoryError, UserError.
        """
        root = self._listing.root
        cache = CodeCache(f"{self._session.home}/cli/stat-cache", root, self._session.address)
        if again:
            cache.forget()
            self._listing = self._listing.again()
        files = submission.get("files", {})
        if any("code" in text for text in files.values()):
            from dstack.client.patterns import code_patterns

            workflow = submission.get("workflow", "")
            self._listing.include, self._listing.exclude = code_patterns(files, workflow, cache)
        commit = submission.get("repository", {}).get("commit")
        shipped = ship_code(self._listing, cache, commit, self._save, self._confirm)
        for note in shipped.notes:
            if note not in self._told:
                self._told.add(note)
                say(f"{paint('warning:', 'yellow', sys.stderr)} {note}")
        submission["code"] = shipped.code
        submission["diff"] = shipped.diff

    def _save(self, root: str, files: Mapping[str, os.stat_result], cache: str) -> tuple[CodeRef, Sequence[str]]:
        from dstack.client.store import save_code

        code, problems, stored = save_code(self._session.api, root, files, cache)
        self.sent += stored
        return code, problems

    def _confirm(self, files: int, size: int, largest: Sequence[tuple[int, str]]) -> bool:
        from dstack.cli.interrupts import has_terminal
        from dstack.client.notes import quoted

        say(f"The code of this run is {files} files, {size_words(size)}. The largest:")
        for file_size, path in largest:
            say(f"  {size_words(file_size):>9}  {quoted(path)}")
        if self._agreed:
            return True
        if not has_terminal():
            raise UserError(
                f"not shipped without asking: {files} files, {size_words(size)}",
                f"name what a run does not need in .dstackignore, or agree with --yes or {ALWAYS}=1",
            )
        sys.stderr.write("Ship all of it? [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")
