"""The patterns of gitignore(5): `.dstackignore` files, and the lists of `code:` in a workflow file.

As with git: the deepest file that says something about a path decides, in it the last pattern that matches, and what
is below an excluded folder cannot be brought back. Tests hold it against git itself.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Match = Callable[[str], object]

NAME = ".dstackignore"
_SPECIAL = re.compile(r"[*?\[\\]")


class IgnoreRules:
    """Rules of several files, each for the folder that it lies in. Paths have `/` between names."""

    def __init__(self, text: str = "") -> None:
        """`text` is the content of the root's file."""
        self._files: dict[str, _File] = {}
        self._folders: dict[str, tuple[tuple[int, _File], ...] | None] = {}
        """What holds within a folder, deepest file first, each with the length of its folder; None: it is ignored."""
        self.says_something = False
        self.add("", text)

    def add(self, folder: str, text: str) -> None:
        """The rules of a file in `folder`, which is empty for the root."""
        self._files[folder] = _File(text)
        self._folders = {}
        self.says_something = any(file.blocks for file in self._files.values())

    def ignores(self, path: str, *, folder: bool = False) -> bool:
        if not self.says_something:
            return False
        parent, _, name = path.rpartition("/")
        files = self._within(parent)
        return files is None or _verdict(files, path, name, folder=folder)

    def keep(self, paths: Iterable[str]) -> list[str]:
        """Those of `paths`, all of them files, that are not ignored."""
        if not self.says_something:
            return list(paths)
        kept: list[str] = []
        for path in paths:
            parent, _, name = path.rpartition("/")
            files = self._within(parent)
            if files is not None and not _verdict(files, path, name, folder=False):
                kept.append(path)
        return kept

    def _within(self, folder: str) -> tuple[tuple[int, _File], ...] | None:
        if folder in self._folders:
            return self._folders[folder]
        found: tuple[tuple[int, _File], ...] | None = ()
        if folder:
            parent, _, name = folder.rpartition("/")
            found = self._within(parent)
            if found is not None and _verdict(found, folder, name, folder=True):
                found = None
        own = self._files.get(folder)
        if found is not None and own is not None and own.blocks:
            found = ((len(folder) + 1 if folder else 0, own), *found)
        self._folders[folder] = found
        return found


def patterns(text: str) -> list[str]:
    """The lines of an ignore file that are patterns, without the spaces that git does not count."""
    lines = text.removeprefix("\ufeff").split("\n")
    trimmed = (_trim(line.removesuffix("\r")) for line in lines if not line.startswith("#"))
    return [line for line in trimmed if line]


def literal_start(pattern: str) -> str | None:
    """The folder that all paths which `pattern` matches lie in, empty for the root; None where it names any folder."""
    body = pattern.removesuffix("/")
    if "/" not in body:
        return None
    names: list[str] = []
    for name in body.lstrip("/").split("/")[:-1]:
        if _SPECIAL.search(name):
            break
        names.append(name)
    return "/".join(names)


def _verdict(files: Sequence[tuple[int, _File]], path: str, name: str, *, folder: bool) -> bool:
    for start, file in files:
        below = path[start:] if start else path
        for block in file.blocks:
            if (block.folders if folder else block.files).match(below, name):
                return block.excludes
    return False


class _File:
    """One file's patterns: runs of those that exclude, or bring back, last first."""

    def __init__(self, text: str) -> None:
        rules = [rule for line in patterns(text) if (rule := _rule(line)) is not None]
        self.blocks: list[_Block] = []
        for rule in reversed(rules):
            if not self.blocks or self.blocks[-1].excludes != rule.excludes:
                self.blocks.append(_Block(rule.excludes))
            self.blocks[-1].add(rule)


class _Rule:
    def __init__(self, glob: str, *, excludes: bool, only_folders: bool, anchored: bool) -> None:
        self.glob = glob
        self.excludes = excludes
        self.only_folders = only_folders
        self.anchored = anchored


class _Block:
    """Patterns of which any decides."""

    def __init__(self, excludes: bool) -> None:
        self.excludes = excludes
        self.files = _Matcher()
        self.folders = _Matcher()

    def add(self, rule: _Rule) -> None:
        self.folders.add(rule)
        if not rule.only_folders:
            self.files.add(rule)


class _Matcher:
    """Plain names and endings are looked up; only the rest is matched as patterns: ten thousand files take 3 ms."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._paths: set[str] = set()
        self._endings: tuple[str, ...] = ()
        self._name_globs: list[str] = []
        self._path_globs: list[str] = []
        self._name_matches: Match | None = None
        self._path_matches: Match | None = None

    def add(self, rule: _Rule) -> None:
        glob = rule.glob
        if not _SPECIAL.search(glob):
            (self._paths if rule.anchored else self._names).add(glob)
        elif rule.anchored:
            self._path_globs.append(_translate(glob))
            self._path_matches = _any_of(self._path_globs)
        elif glob.startswith("*") and not _SPECIAL.search(glob[1:]):
            self._endings += (glob[1:],)
        else:
            self._name_globs.append(_translate(glob))
            self._name_matches = _any_of(self._name_globs)

    def match(self, path: str, name: str) -> bool:
        return (
            name in self._names
            or name.endswith(self._endings)
            or path in self._paths
            or (self._name_matches is not None and self._name_matches(name) is not None)
            or (self._path_matches is not None and self._path_matches(path) is not None)
        )


def _trim(line: str) -> str:
    """Without the spaces at its end, except one that a backslash keeps."""
    trimmed = line.rstrip(" ")
    if trimmed == line or (len(trimmed) - len(trimmed.rstrip("\\"))) % 2 == 0:
        return trimmed
    return trimmed + " "


def _rule(line: str) -> _Rule | None:
    """The rule of one pattern; None for one that matches nothing."""
    excludes = not line.startswith("!")
    glob = line if excludes else line[1:]
    only_folders = glob.endswith("/")
    if only_folders:
        glob = glob[:-1]
    anchored = "/" in glob
    glob = glob.removeprefix("/")
    if not glob or not _is_valid(glob):
        return None
    return _Rule(glob, excludes=excludes, only_folders=only_folders, anchored=anchored)


def _is_valid(glob: str) -> bool:
    """Git matches nothing with a backslash at the end, or with a set that is not closed."""
    try:
        re.compile(_translate(glob))
    except ValueError:
        return False
    return True


def _any_of(globs: Sequence[str]) -> Match:
    return re.compile("|".join(globs), re.DOTALL).fullmatch


def _translate(glob: str) -> str:
    """A regular expression for the whole of what `glob` matches. Raises ValueError for what matches nothing."""
    special = _SPECIAL.search(glob)
    # Git compares what stands before the first special character by itself: to it `a**/b` is `a` and then `**/b`.
    start = at = special.start() if special else len(glob)
    pieces = [re.escape(glob[:at])]
    while at < len(glob):
        character = glob[at]
        if character == "*":
            end = at
            while end < len(glob) and glob[end] == "*":
                end += 1
            piece, at = _stars(glob, at, end, opens=at == start or glob[at - 1] == "/")
        elif character == "?":
            piece, at = "[^/]", at + 1
        elif character == "[":
            piece, at = _set(glob, at + 1)
        elif character == "\\":
            if at + 1 == len(glob):
                raise ValueError(glob)
            piece, at = re.escape(glob[at + 1]), at + 2
        else:
            piece, at = re.escape(character), at + 1
        pieces.append(piece)
    return "".join(pieces)


def _stars(glob: str, start: int, end: int, *, opens: bool) -> tuple[str, int]:
    """`**` between slashes is any number of folders; any other run of stars is a part of one name."""
    if end - start < 2 or not opens:
        return "[^/]*", end
    if end == len(glob):
        return ".*", end
    if glob[end] == "/":
        return "(?:.*/)?", end + 1
    return "[^/]*", end


_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r" \t\n\v\f\r",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}


def _set(glob: str, at: int) -> tuple[str, int]:
    """The set that begins after its `[`, and where the pattern goes on."""
    negated = glob[at : at + 1] in ("!", "^")
    first = at = at + negated
    pieces: list[str] = []
    while True:
        if at >= len(glob):
            raise ValueError(glob)
        if glob[at] == "]" and at > first:
            break
        if glob.startswith("[:", at) and (end := glob.find(":]", at)) > 0:
            if glob[at + 2 : end] not in _CLASSES:
                raise ValueError(glob)
            pieces.append(_CLASSES[glob[at + 2 : end]])
            at = end + 2
            continue
        low, at = _member(glob, at)
        high = low
        if glob[at : at + 1] == "-" and glob[at + 1 : at + 2] not in ("", "]"):
            high, at = _member(glob, at + 1)
        # To git, a range the wrong way round still holds what it begins with.
        pieces.append(f"{re.escape(low)}-{re.escape(high)}" if low < high else re.escape(low))
    return f"(?!/)[{'^' if negated else ''}{''.join(pieces)}]", at + 1


def _member(glob: str, at: int) -> tuple[str, int]:
    if glob[at] == "\\":
        at += 1
    if at >= len(glob):
        raise ValueError(glob)
    return glob[at], at + 1
