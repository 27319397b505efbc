"""`.dstackignore`: the patterns of gitignore(5), for files that are not to be shipped although git knows them.

One file, at the repository's root. As with git: the last pattern that matches decides, and a file below an excluded
folder cannot be brought back.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class IgnoreRules:
    """The rules of one file's text."""

    def __init__(self, text: str) -> None:
        self._rules = [rule for line in text.splitlines() if (rule := _rule(line)) is not None]
        self._folders: dict[str, bool] = {"": False}

    def keep(self, paths: Iterable[str]) -> list[str]:
        """Those of `paths` (relative to the root, `/` between names) that are not ignored."""
        if not self._rules:
            return list(paths)
        return [path for path in paths if not self._is_ignored(path, folder=False)]

    def _is_ignored(self, path: str, *, folder: bool) -> bool:
        parent = path.rpartition("/")[0]
        if parent not in self._folders:
            self._folders[parent] = self._is_ignored(parent, folder=True)
        if self._folders[parent]:
            return True
        for pattern, excludes, only_folders in reversed(self._rules):
            if (folder or not only_folders) and pattern.fullmatch(path):
                return excludes
        return False


def _rule(line: str) -> tuple[re.Pattern[str], bool, bool] | None:
    """(pattern, excludes or brings back, folders only) of one line; None for an empty one or a comment."""
    if not line.endswith("\\ "):
        line = line.rstrip()
    if not line or line.startswith("#"):
        return None
    excludes = not line.startswith("!")
    if not excludes:
        line = line[1:]
    only_folders = line.endswith("/")
    line = line.rstrip("/")
    if not line:
        return None
    anchored = "/" in line
    return (
        re.compile(("" if anchored else "(?:.*/)?") + _translate(line.lstrip("/")), re.DOTALL),
        excludes,
        only_folders,
    )


_TOKEN = re.compile(
    r"(?P<start>^\*\*/)|(?P<middle>/\*\*/)|(?P<end>/\*\*$)|(?P<star>\*+)|(?P<one>\?)|(?P<set>\[!?\]?[^\]]*\])|\\(?P<escaped>.)"
)


def _translate(glob: str) -> str:
    pieces: list[str] = []
    at = 0
    for match in _TOKEN.finditer(glob):
        pieces.append(re.escape(glob[at : match.start()]))
        at = match.end()
        match match.lastgroup:
            case "start":
                pieces.append("(?:.*/)?")
            case "middle":
                pieces.append("/(?:.*/)?")
            case "end":
                pieces.append("/.*")
            case "star":
                pieces.append("[^/]*")
            case "one":
                pieces.append("[^/]")
            case "set":
                inner = match[0][1:-1].replace("\\", "\\\\")
                pieces.append(f"(?!/)[{'^' + inner[1:] if inner.startswith('!') else inner}]")
            case _:
                pieces.append(re.escape(match["escaped"]))
    pieces.append(re.escape(glob[at:]))
    return "".join(pieces)
