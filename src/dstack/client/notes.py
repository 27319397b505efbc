"""What a person should know of the code that is shipped, one line for each kind of thing; asked when something changed.

Files that cannot be shipped exactly are no matter of a note: they are named in an error, and no run starts.
"""

from __future__ import annotations

import os

from dstack.client.git import GitFailed, GitOutput
from dstack.client.ignore import IgnoreRules
from dstack.client.walking import Walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dstack.client.listing import Listing
    from dstack.client.tree import Tree

SHOWN = 3
"""Names in one line."""
_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
_POINTER_SIZE = 1024
"""A pointer is smaller (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)."""


def special_files(listing: Listing, tree: Tree) -> dict[str, str]:
    """Pipes, sockets and devices beside the files that go, ignored or not: git does not name them at all."""
    walk = Walk(listing.root, listing.rules())
    walk.special_in(tree.folders)
    return listing.special | walk.special


def notes(listing: Listing, tree: Tree, special: Mapping[str, str]) -> list[str]:
    """Of what is not shipped, or shipped as something else than it seems. `special` is of `special_files`."""
    found: list[str] = []
    if listing.without_git:
        found.append(f"{listing.without_git}: all files are shipped, also those that a .gitignore names")
    missed = {path: kind for path, kind in sorted(special.items()) if not _is_ignored(listing, path)}
    if missed:
        found.append(f"not shipped: {_names(f'{quoted(path)} ({kind})' for path, kind in missed.items())}")
    if listing.bare_submodules:
        names = _names(map(quoted, sorted(listing.bare_submodules)))
        found.append(f"submodules that are not checked out go as empty folders: {names} (git submodule update --init)")
    if pointers := _pointers(listing.root, tree):
        names = _names(map(quoted, pointers))
        found.append(f"Git LFS pointers go as they are, without the files that they stand for: {names} (git lfs pull)")
    if links := _links(listing.root, tree):
        names = _names(f"{quoted(path)} → {quoted(target)}{why}" for path, (target, why) in links.items())
        found.append(f"links go as links, and these may lead nowhere: {names}")
    found += (f"code: include: `{quoted(pattern)}` matches no file" for pattern in listing.unmatched)
    return found


def quoted(path: str) -> str:
    """A path for a terminal: what cannot be shown, or would move the cursor, as an escape."""
    if path.isprintable():
        return path
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _names(names: Iterable[str]) -> str:
    all_of_them = list(names)
    more = len(all_of_them) - SHOWN
    return ", ".join(all_of_them[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _is_ignored(listing: Listing, path: str) -> bool:
    if listing.ignores(path) or not listing.asks_git:
        return listing.ignores(path)
    folder, _, name = f"{listing.root}/{path}".rpartition("/")
    try:
        GitOutput(folder, "check-ignore", "-q", "--", f"./{name}").read()
    except GitFailed:
        return False
    return True


def _links(root: str, tree: Tree) -> dict[str, tuple[str, str]]:
    """Links that may not lead where they do here → (target, why)."""
    shipped = {*tree.paths, *tree.folders}
    found: dict[str, tuple[str, str]] = {}
    for path in tree.links:
        try:
            target = os.readlink(f"{root}/{path}")
        except OSError:
            continue  # changed meanwhile, which the look after this one finds
        end = os.path.relpath(os.path.realpath(f"{root}/{path}"), root)
        if target.startswith("/"):
            found[path] = target, " (an absolute path)"
        elif end == ".." or end.startswith("../"):
            found[path] = target, " (out of the repository)"
        elif not os.path.exists(f"{root}/{path}"):
            found[path] = target, " (nothing is there)"
        elif end != "." and end not in shipped:
            found[path] = target, " (not shipped)"
    return found


def _pointers(root: str, tree: Tree) -> list[str]:
    """Files that Git LFS has not fetched."""
    rules = IgnoreRules()
    for path in tree.paths:
        if path == ".gitattributes" or path.endswith("/.gitattributes"):
            rules.add(path.rpartition("/")[0], _lfs_patterns(f"{root}/{path}"))
    if not rules.says_something:
        return []
    small = (path for path, size in zip(tree.paths, tree.sizes, strict=True) if len(_POINTER) < size < _POINTER_SIZE)
    return [path for path in small if rules.ignores(path) and _is_pointer(f"{root}/{path}")]


def _lfs_patterns(path: str) -> str:
    """The patterns of a .gitattributes file (gitattributes(5)) that Git LFS looks after."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split() for line in file]
    except OSError:
        return ""
    return "\n".join(words[0].strip('"') for words in lines if len(words) > 1 and "filter=lfs" in words[1:])


def _is_pointer(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(_POINTER)) == _POINTER
    except OSError:
        return False  # what cannot be read is told of by the save
