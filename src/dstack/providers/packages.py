"""The requirements of a workflow held against the code: files that are not there, and lines that no installer takes."""

from __future__ import annotations

import hashlib
import posixpath
import re
import threading
from collections import OrderedDict
from typing import NamedTuple

from dstack.providers.requirement_lines import trouble
from dstack.sdk.config import WorkflowConfig, absent
from dstack.sdk.provider import PlanContext, PlanError
from dstack.sdk.requirement_files import NotText, logical_lines, named_file

FILE = "-r "

_NAME = re.compile(r"[A-Za-z][\w.-]*")
_PACKAGE = re.compile(r"[A-Za-z][\w-]*([\[=<>~! ].*)?")
_ELSEWHERE = re.compile(r"/|[a-z][a-z0-9+.-]*:|.*\$\{", re.IGNORECASE)
"""A file that is not looked for in the code, but left to the installer: a place, an address, a name with a variable."""
_FILES = (".txt", ".in")
"""What the names of requirements files end in."""
_MOST_LINES = 20
"""Wrong lines that are told."""
_MOST_TOLD = 10
"""Packages that are put into a hint."""
_MOST_FILES = 200
_MOST_TEXT = 32 << 20
"""Characters of all files that a workflow's file leads to; what is more is left to the installer."""
_MOST_SHOWN = 100
"""Characters of a wrong line that are told."""
_KEPT_FILES = 32
_KEPT_TEXT = 1 << 20
"""Characters of a file of which it is kept what is in it: many workflows name one file."""

At = tuple[str | int, ...]


class Place(NamedTuple):
    """A line of a file."""

    path: str
    number: int

    def __str__(self) -> str:
        return f"{self.path}:{self.number}"


def check(workflow: WorkflowConfig, line: str, index: int, ctx: PlanContext) -> str:
    """A requirement as it is, or `-r FILE` with the file's path from the root of the code. Raises PlanError.

    The file is looked for in the working directory, then in the root.
    """
    at = ("requirements", index)
    if not line.startswith(FILE):
        if wrong_line := trouble(line):
            raise PlanError(f"`{line}` is no requirement: {wrong_line}", at=at, hint=_as_file(line))
        name = named_file(line)
        path = _within(".", name) if name else ""
        if path and not _check_files(path, at, ctx) and not ctx.exists(path):
            raise missing_file(name, path, at, ctx)
        return line
    name = named_file(line)
    for folder in dict.fromkeys((workflow.working_dir, ".")):
        path = posixpath.normpath(posixpath.join(folder, name))
        if _is_outside(path):
            raise PlanError(f"`{name}` lies outside the repository", at=at, hint="name a file of the repository")
        if _check_files(path, at, ctx):
            return FILE + path
    workflow.check_folder(ctx)
    if file := named_file(name):
        alone = f"name the file alone: `requirements: {file}`"
        hint = alone if name.startswith(FILE) else f"options stand in a list: `requirements: [{name}]`"
        raise PlanError(f"there is no file {_cut(name)} in the code that is sent", at=at, hint=hint)
    path = posixpath.normpath(posixpath.join(workflow.working_dir, name))
    if (packages := _packages(name)) and not ctx.near(path).endswith(_FILES):
        told = ", ".join(packages[:_MOST_TOLD]) + (", …" if len(packages) > _MOST_TOLD else "")
        hint = f"packages stand in a file such as requirements.txt, or in a list: `requirements: [{told}]`"
        raise PlanError(f"there is no file {_cut(name)} in the code that is sent", at=at, hint=hint)
    raise missing_file(name, path, at, ctx)


def missing_file(name: str, path: str, at: At, ctx: PlanContext, named_in: str = "") -> PlanError:
    """The error that `name`, a file at `path` of the code, is not there."""
    near = ctx.near(path) if not ctx.excluded(path) else ""
    hint = (f"did you mean `{near}`? " if near else "") + absent(path, ctx, "create it")
    return PlanError(f"{named_in}there is no file {_cut(name)} in the code that is sent", at=at, hint=hint)


def _cut(name: str) -> str:
    """What stands in place of a file's name, in one line: it may be a whole list of packages."""
    words = " ".join(name[:1000].split())
    return f"`{words if len(words) <= 100 else words[:100] + '…'}`"


def _packages(name: str) -> list[str]:
    """The packages that somebody named in place of a file; empty where it looks like none."""
    words = name.replace(",", " ").split()
    if len(words) > 1 and all(_NAME.fullmatch(word) for word in words):
        return words
    return [name] if _PACKAGE.fullmatch(name) is not None else []


def _as_file(line: str) -> str:
    return f"a file is named by `requirements: {line}`" if line.endswith(_FILES) else ""


def _is_outside(path: str) -> bool:
    return path.startswith("/") or path.split("/", 1)[0] == ".."


def _within(folder: str, name: str) -> str:
    """The path in the code of a file that is named in `folder`; empty where it lies elsewhere."""
    path = posixpath.normpath(posixpath.join(folder, name))
    return "" if _ELSEWHERE.match(name) or _is_outside(path) else path


# --- what is in the files -----------------------------------------------------------------------------------------


def _check_files(path: str, at: At, ctx: PlanContext) -> bool:
    """Whether there is a file at `path`; raises PlanError for what is wrong in it, and in the files that it names."""
    errors: list[PlanError] = []
    left = _MOST_TEXT
    waiting: list[tuple[str, Place | None]] = [(path, None)]
    seen = {path}
    while waiting and len(errors) < _MOST_LINES and left > 0:
        path, named = waiting.pop(0)
        try:
            text = ctx.read_text(path)
        except NotText as error:
            place = f"{named}: " if named is not None else ""
            errors.append(PlanError(f"{place}`{path}` {error}", at=at, hint=error.hint))
            continue
        if text is None:
            if named is None:
                return False
            if not ctx.exists(path):
                errors.append(missing_file(path, path, at, ctx, f"{named}: "))
            continue
        left -= len(text)
        found = (_look_again if len(text) <= _KEPT_TEXT else _look)(text)
        errors += [
            PlanError(f"{path}:{number}: `{line}` is no requirement: {why}", at=at) for number, line, why in found.wrong
        ]
        for number, name in found.named:
            target = _within(posixpath.dirname(path), name)
            if target and target not in seen and len(seen) < _MOST_FILES:
                seen.add(target)
                waiting.append((target, Place(path, number)))
    if errors:
        first, *others = errors[:_MOST_LINES]
        raise PlanError(str(first), at=at, hint=first.hint, others=others)
    return True


class _Found(NamedTuple):
    """What is in a file: wrong lines with what is wrong, and the files that it names; numbers count from 1."""

    wrong: tuple[tuple[int, str, str], ...]
    named: tuple[tuple[int, str], ...]


def _look(text: str) -> _Found:
    wrong: list[tuple[int, str, str]] = []
    named: list[tuple[int, str]] = []
    for number, line in logical_lines(text):
        if (why := trouble(line)) and len(wrong) < _MOST_LINES:
            wrong.append((number, line[:_MOST_SHOWN], why))
        elif line.startswith("-") and (name := named_file(line)) and len(named) < _MOST_FILES:
            named.append((number, name))
    return _Found(tuple(wrong), tuple(named))


class _Looked:
    """What is in the files looked at last, by their digests: the texts themselves are megabytes, and would stay."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[bytes, _Found] = OrderedDict()

    def __call__(self, text: str) -> _Found:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            known = self._found.get(digest)
        found = known if known is not None else _look(text)
        with self._lock:
            self._found[digest] = found
            self._found.move_to_end(digest)
            while len(self._found) > _KEPT_FILES:
                self._found.popitem(last=False)
        return found


_look_again = _Looked()
