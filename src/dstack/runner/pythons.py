"""Which Python interpreters this machine has, found without running one: on the PATH, under pyenv and under uv."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"python(3\.\d+)")
_FOLDER = re.compile(r"(?:cpython-)?(3\.\d+(?:\.\d+)?)(?:-.*)?")


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter; `version` is `3.11`, or `3.11.7` where the folder's name tells."""

    version: str
    path: Path


def installed(environment: Mapping[str, str]) -> list[Python]:
    """All that is found, in the order of preference: the PATH first, then newer before older."""
    found: dict[Path, Python] = {}
    for python in (*_on_path(environment), *_managed(environment)):
        found.setdefault(python.path, python)
    return list(found.values())


def minor_versions(environment: Mapping[str, str]) -> dict[str, str]:
    """`3.11` → path, the preferred interpreter of each minor version, oldest first: what a runner tells of itself."""
    found: dict[str, str] = {}
    for python in installed(environment):
        found.setdefault(".".join(python.version.split(".")[:2]), str(python.path))
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def find(version: str, environment: Mapping[str, str]) -> Path | None:
    """The interpreter for a plain version such as `3.11` or `3.11.7`; None when there is none."""
    wanted = version.split(".")
    for python in installed(environment):
        if python.version.split(".")[: len(wanted)] == wanted:
            return python.path
    return None


def _on_path(environment: Mapping[str, str]) -> Iterator[Python]:
    for folder in environment.get("PATH", os.defpath).split(os.pathsep):
        if not folder or folder.endswith("/shims"):  # pyenv's shims only run what pyenv has selected
            continue
        names = _listing(folder)
        for name in sorted((name for name in names if name.startswith("python3")), key=len):
            path = Path(folder, name)
            match = _NAME.fullmatch(name) or _NAME.fullmatch(os.path.basename(os.path.realpath(path)))
            if match and os.access(path, os.X_OK):
                yield Python(match[1], path)


def _managed(environment: Mapping[str, str]) -> Iterator[Python]:
    home = environment.get("HOME", os.path.expanduser("~"))
    pyenv = os.path.join(environment.get("PYENV_ROOT") or f"{home}/.pyenv", "versions")
    data = environment.get("XDG_DATA_HOME") or f"{home}/.local/share"
    for root in (pyenv, environment.get("UV_PYTHON_INSTALL_DIR") or f"{data}/uv/python"):
        versions = [(match[1], name) for name in _listing(root) if (match := _FOLDER.fullmatch(name))]
        for version, name in sorted(versions, key=lambda each: _order(each[0]), reverse=True):
            path = Path(root, name, "bin", f"python{'.'.join(version.split('.')[:2])}")
            if os.access(path, os.X_OK):
                yield Python(version, path)


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _listing(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
