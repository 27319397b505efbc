"""The first `.dstack/workflows.yaml` of a project, made from what is there."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from dstack.cli.scripts import Script, find_scripts

SCHEMA = "workflows.schema.json"
"""Beside the file, for editors."""
MOST_SCRIPTS = 6
_REQUIREMENTS = ("requirements/base.txt", "requirements/requirements.txt", "requirements.in")
_PLAIN = re.compile(r"[A-Za-z0-9_./-][A-Za-z0-9_./ =<>~!+-]*")


@dataclass(frozen=True, slots=True)
class Requirements:
    """What the workflows' `requirements` is: a file, or a list; `said` tells a person where it comes from."""

    value: str | list[str] | None
    said: str
    source_folder: str | None = None
    """A folder that holds packages of the project itself."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """The text of the file, the workflow to run first, and what a person should know."""

    text: str
    first: str
    notes: list[str]


def propose(root: Path) -> Proposal:
    """What `dstack init` shows for the project at `root`."""
    scripts = _chosen(find_scripts(root))
    requirements = find_requirements(root, [str(PurePosixPath(script.path).parent) for script in scripts])
    notes = [requirements.said] if requirements.said else []
    if scripts:
        blocks = list(_python_blocks(scripts, requirements))
        main = next((script for script in scripts if script.role == "train"), None)
        first = (main or next((script for script in scripts if script.role == "other"), scripts[0])).name
        notes += _loose_notes(scripts)
    elif shell := sorted(path.name for path in root.glob("*.sh") if path.is_file())[:MOST_SCRIPTS]:
        blocks = [_shell_block(name) for name in shell]
        first = Path(shell[0]).stem
    else:
        blocks = [_HELLO]
        first = "hello"
        notes.append("No script was found, so the file has an example only.")
    head = f"# yaml-language-server: $schema={SCHEMA}\n# Run one with: dstack run {first}\nworkflows:\n"
    return Proposal(head + "\n".join(blocks), first, notes)


def find_requirements(root: Path, folders: Sequence[str] = ()) -> Requirements:
    """From requirements.txt, at the root or in one of the scripts' `folders`, or what pyproject.toml names."""
    beside = [f"{folder}/requirements.txt" for folder in dict.fromkeys(folders) if folder != "."]
    for name in ("requirements.txt", *_REQUIREMENTS, *beside):
        if (root / name).is_file():
            return Requirements(name, f"Packages: {name}")
    folder = _source_folder(root)
    project = root / "pyproject.toml"
    if project.is_file():
        listed = _dependencies(project)
        if listed:
            return Requirements(listed, f"Packages: the {len(listed)} that pyproject.toml names", folder)
    if any((root / name).is_file() for name in ("environment.yml", "environment.yaml")):
        said = (
            "Packages: environment.yml is conda's; jobs use the Python of the environment that is active when you run."
        )
        return Requirements(None, said, folder)
    return Requirements(
        None, "Packages: none are named, so jobs use the Python of the shell that you run from.", folder
    )


def _source_folder(root: Path) -> str | None:
    source = root / "src"
    return "src" if source.is_dir() and any(source.glob("*/__init__.py")) else None


def _dependencies(path: Path) -> list[str]:
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    project: object = content.get("project")
    listed: object = cast("dict[str, object]", project).get("dependencies") if isinstance(project, dict) else None
    found = cast("list[object]", listed) if isinstance(listed, list) else []
    return [item for item in found if isinstance(item, str)]


def _chosen(scripts: Sequence[Script]) -> list[Script]:
    """Those that are worth a workflow: what prepares, trains and evaluates; if nothing trains by its name, all."""
    known = [script for script in scripts if script.role != "other"]
    if not any(script.role == "train" for script in known):
        known = list(scripts)
    seen: dict[str, Script] = {}
    for script in known:
        seen.setdefault(script.name, script)
    return list(seen.values())[:MOST_SCRIPTS]


def _python_blocks(scripts: Sequence[Script], requirements: Requirements) -> Iterator[str]:
    prepares = [script for script in scripts if script.role == "prepare" and script.outputs]
    trains = [script for script in scripts if script.role == "train" and script.outputs]
    for script in scripts:
        lines = [f"  - name: {script.name}"]
        lines += [f"    help: {_spelled(script.about)}"] if script.about else []
        lines += ["    provider: python", f"    script: {_spelled(shlex.quote(script.path))}"]
        if script.operands:
            lines.append(f"    # args: {' '.join(script.operands)}  # it takes {_some(len(script.operands))}")
        if requirements.value is not None:
            lines += _listing("requirements", requirements.value)
        if requirements.source_folder:
            lines += ["    environment:", f"      PYTHONPATH: {requirements.source_folder}"]
        if script.role == "train" and prepares:
            lines.append(
                f"    depends-on: [{', '.join(item.name for item in prepares)}]  # runs first, in the same run"
            )
        if script.role == "evaluate" and (needed := [*prepares, *trains]):
            names = ", ".join(f"{item.name}:latest" for item in needed)
            lines.append(f"    depends-on: [{names}]  # what their newest successful runs made")
        if script.outputs:
            lines.append("    artifacts:  # folders that are saved while it runs")
            lines += (f"      - {_spelled(folder)}" for folder in script.outputs)
        else:
            lines.append("    # artifacts: [FOLDER]  # name the folders that it writes, and they are saved")
        if script.options:
            example = f"dstack run {script.name} {script.options[0]} VALUE"
            lines.append(f"    # takes {', '.join(script.options[:8])}: {example}")
        yield "\n".join(lines) + "\n"


def _some(count: int) -> str:
    return "an argument" if count == 1 else f"{count} arguments"


def _listing(key: str, value: str | list[str]) -> list[str]:
    if isinstance(value, str):
        return [f"    {key}: {_spelled(value)}"]
    return [f"    {key}:", *(f"      - {_spelled(item)}" for item in value)]


def _shell_block(name: str) -> str:
    stem = re.sub(r"[^\w.-]", "-", Path(name).stem)
    command = _spelled(f"bash {shlex.quote('./' + name)}")
    return (
        f"  - name: {stem}\n    provider: bash\n    commands:\n      - {command}\n"
        "    # artifacts: [FOLDER]  # name the folders that it writes, and they are saved\n"
    )


_HELLO = """\
  - name: hello
    provider: bash
    commands:
      - echo "hello from $(hostname)" | tee out/hello.txt
    artifacts:  # folders that are saved while it runs
      - out
"""


def _loose_notes(scripts: Sequence[Script]) -> Iterator[str]:
    for script in scripts:
        if script.loose and not script.outputs:
            yield (
                f"{script.path} writes {', '.join(script.loose[:3])} beside itself: what is to be saved has to lie in "
                "a folder of its own, which `artifacts` then names."
            )


def _spelled(text: str) -> str:
    """A text as YAML takes it."""
    return text if _PLAIN.fullmatch(text) and " #" not in text and ": " not in text else json.dumps(text)
