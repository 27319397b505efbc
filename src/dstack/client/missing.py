"""Files that a job did not find although they are here: those that were not shipped, and why they were not."""

from __future__ import annotations

import os
import re

from dstack.client.git import GitFailed, GitOutput
from dstack.client.listing import Listing
from dstack.client.notes import quoted
from dstack.client.patterns import code_patterns
from dstack.client.repository import read_files
from dstack.client.tree import Tree, look

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MOST = 3
_SIGNS = re.compile(
    r"no such file|filenotfound|not found|(does not|doesn't|not) exist|missing file|enoent|no module named"
    r"|(cannot|can't|could not|unable to) (open|find|read|load|stat|access)",
    re.IGNORECASE,
)
_MODULE = re.compile(r"No module named '?([\w.]+)'?")
_QUOTED = re.compile(r"""'([^'\n]+)'|"([^"\n]+)"|`([^`\n]+)`""")
_RULE = re.compile(r"(.*?):(\d+):(.*?)\t")
_WORKING_DIR = re.compile(r"""\bworking_dir["']?:[ \t]*["']?([^"'#,}\n]+)""")


def names_missed(lines: Sequence[str]) -> list[str]:
    """What may be the files that `lines`, the last ones of a failed job, complain of."""
    return list(dict.fromkeys(name for line in lines for name in _named(line)))


def missing_files(root: str, workflow: str, names: Sequence[str]) -> list[str]:
    """What to tell whoever submitted a run of `workflow` from `root`, a job of which missed files called `names`.

    Raises RepositoryError.
    """
    files = read_files(root)
    found = list(dict.fromkeys(path for name in names if (path := _here(root, name, files)) is not None))
    if not found:
        return []
    listing = Listing(root)
    listing.include, listing.exclude = code_patterns(files, workflow)
    tree = look(listing)
    shipped = {*tree.paths, *tree.folders}
    return [_told(listing, tree, path) for path in found if path not in shipped][:MOST]


def missing_package(root: str, lines: Sequence[str]) -> str | None:
    """What to say of a Python program that ended with `lines`, if it lacks a module that is none of those at `root`."""
    last = next((line for line in reversed(lines) if line.strip()), "")
    found = _MODULE.search(last)
    if found is None or os.path.lexists(f"{root}/{_top(found)}") or os.path.lexists(f"{root}/{_top(found)}.py"):
        return None
    return (
        f"{quoted(_top(found))} is not installed for this job: name its package in the file that `requirements` (or "
        "`-r FILE`) gives. A job without requirements has the packages of the python3 that your shell finds"
    )


def _top(found: re.Match[str]) -> str:
    return found[1].partition(".")[0]


def _named(line: str) -> Iterator[str]:
    """What may be the path of a file that a line complains of."""
    if not _SIGNS.search(line):
        return
    for module in _MODULE.findall(line):
        parts = module.split(".")
        for count in range(len(parts), 0, -1):
            path = "/".join(parts[:count])
            yield from (f"{path}.py", f"{path}/__init__.py", path)
        return
    for groups in _QUOTED.findall(line):
        yield "".join(groups)
    for piece in line.split(": "):
        yield piece.strip(" \t,;()[]<>")
        for word in piece.split():
            yield word.strip(",;:()[]<>'\"`")


def _here(root: str, name: str, files: Mapping[str, str]) -> str | None:
    """The path, relative to the root, of an existing file that a job may call `name`."""
    if not name or "\0" in name or len(name) > 4000:
        return None
    for path in _places(name, files):
        if path not in ("", ".", "..") and not path.startswith(("../", "/", ".git/")):
            try:
                if os.path.lexists(f"{root}/{path}"):
                    return path
            except ValueError:
                return None  # no text that could name a file
    return None


def _places(name: str, files: Mapping[str, str]) -> Iterator[str]:
    if name.startswith("/"):
        # The job's working copy has a path of its own; what follows it is the path here.
        parts = [part for part in name.split("/") if part]
        yield from ("/".join(parts[start:]) for start in range(1, len(parts)))
        return
    yield os.path.normpath(name)
    for text in files.values():
        for folder in _WORKING_DIR.findall(text):
            yield os.path.normpath(f"{folder.strip()}/{name}")


def _told(listing: Listing, tree: Tree, path: str) -> str:
    why, advice = _reason(listing, tree, path)
    return f"{quoted(path)} is here, but was not shipped: {why}" + (f". {advice}" if advice else "")


def _reason(listing: Listing, tree: Tree, path: str) -> tuple[str, str]:
    """Why a path is not shipped, and what to do."""
    for link in tree.links:
        if path.startswith(f"{link}/"):
            return f"it lies behind the link {quoted(link)}, and links go as links", ""
    if listing.ignores(path) or listing.ignores(path, folder=True):
        return "a .dstackignore or `code: exclude` names it", "Take it out there"
    include = f"To ship it, add `code: {{include: [{quoted(path)}]}}` to .dstack/workflows.yaml"
    rule = _git_rule(listing, path) if listing.asks_git else None
    if rule is not None:
        return rule, include
    return "virtual environments, caches and empty folders stay here", include


def _git_rule(listing: Listing, path: str) -> str | None:
    """Which line of which file has git ignore a path."""
    folder, _, name = f"{listing.root}/{path}".rpartition("/")
    try:
        output = os.fsdecode(GitOutput(folder, "check-ignore", "-v", "--", f"./{name}").read())
    except (GitFailed, FileNotFoundError):
        return None
    rule = _RULE.match(output)
    return f"{quoted(rule[1])}, line {rule[2]}, has git ignore it (`{quoted(rule[3])}`)" if rule else None
