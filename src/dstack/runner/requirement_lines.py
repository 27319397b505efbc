"""Reads requirement lines and the files they name, as far as it decides whether two environments are the same."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dstack.sdk.requirement_files import NotText, decode, logical_lines, named_file

_CONSTRAINTS = re.compile(r"-c|--constraint")
_EDITABLE = re.compile(r"(-e|--editable)(\s|=)")
_PINNED_GIT = re.compile(r"git\+.*@[0-9a-f]{40}(#|$|\s)")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_ARCHIVES = (".whl", ".tar.gz", ".zip", ".tar.bz2", ".tgz")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WHERE = "add it to the repository, or correct its path: it is relative to the file that names it"


class RequirementsError(Exception):
    """A requirements file cannot be read; the text names it and who named it."""


@dataclass(slots=True)
class Requirements:
    """`arguments` for `uv pip install`; `material` defines the result; `sources`: distribution name → line and place.

    `shared` False: something in it may change without its text changing, so each attempt gets its own environment.
    """

    arguments: list[str] = field(default_factory=list[str])
    material: list[bytes] = field(default_factory=list[bytes])
    sources: dict[str, str] = field(default_factory=dict[str, str])
    shared: bool = True
    files: set[Path] = field(default_factory=set[Path])
    """Those that were read: what one says twice defines nothing new."""
    root: Path = field(default_factory=Path)
    """Of the code: files are called by their paths from there."""

    def called(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else path.name


def read(lines: Iterable[str], code_root: Path) -> Requirements:
    """Read the requirement `lines` of a workflow; files are relative to `code_root`. Raises RequirementsError."""
    result = Requirements(root=Path(os.path.normpath(code_root)))
    for _, line in logical_lines("\n".join(lines)):
        if name := named_file(line):
            result.arguments += ["-c" if _CONSTRAINTS.match(line) else "-r", name]
        elif line.startswith("-"):
            name, _, value = line.partition("=") if line.split(None, 1)[0].count("=") else line.partition(" ")
            result.arguments += [name, value.strip()] if value else [name]
        else:
            result.arguments.append(line)
        _note(line, code_root, "the workflow's requirements", result)
    return result


def _note(line: str, base: Path, place: str, result: Requirements) -> None:
    """Add one line, and what it names, to the material."""
    result.material.append(line.encode())
    if name := named_file(line):
        if _SCHEME.match(name) or "${" in name:
            result.shared = False  # what is behind an address may change
        else:
            _note_file(Path(os.path.normpath(base / name)), place, result)
    elif _EDITABLE.match(line):
        result.shared = False
    elif not line.startswith("-"):
        _note_requirement(line, base, place, result)


def _note_file(path: Path, place: str, result: Requirements) -> None:
    if path in result.files:
        return
    result.files.add(path)
    try:
        text = decode(path.read_bytes())
    except (OSError, NotText) as error:
        if isinstance(error, OSError):
            why, advice = error.strerror, _WHERE
        else:
            why, advice = f"it {error}", error.hint
        raise RequirementsError(
            f"the requirements file {result.called(path)}, named in {place}, cannot be read ({path}: {why}); {advice}"
        ) from error
    for number, line in logical_lines(text):
        _note(line, path.parent, f"{result.called(path)}:{number}", result)


def _note_requirement(line: str, base: Path, place: str, result: Requirements) -> None:
    name = _NAME.match(line)
    if name:
        result.sources.setdefault(_normal(name[0]), f"`{line}` ({place})")
    target = line.split(" @ ", 1)[-1].split(";", 1)[0].strip()
    if target.startswith("git+"):
        result.shared = result.shared and bool(_PINNED_GIT.match(target))
        return
    target = target.removeprefix("file://")
    if _SCHEME.match(target):
        address, _, fragment = target.partition("#")
        if not address.endswith(".whl") and "sha256=" not in fragment:
            result.shared = False  # an archive behind an address may change
        return
    local = base / target.split("[", 1)[0] if "/" in target or target.endswith(_ARCHIVES) or target == "." else None
    if local is None:
        return
    if local.is_file():
        result.material.append(local.read_bytes())
    else:
        result.shared = False


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named_in(message: str, requirements: Requirements) -> list[str]:
    """The requirements, with their places, that uv's `message` names."""
    words = {_normal(word.rstrip(".,:;`'\"")) for word in re.findall(r"[A-Za-z0-9][A-Za-z0-9._-]*", message)}
    return [source for name, source in requirements.sources.items() if name in words]
