"""What `lstat` says about the files that go with a run. An unchanged tree of 10,000 files costs some 15 ms."""

from __future__ import annotations

import os
import stat
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from dstack.client.listing import Listing

_FACTS = struct.Struct("=IQqqQ").pack
_KIND = 0o170000
"""The bits of a mode that say what it is of."""
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Tree:
    """The files of one look. Paths are relative to the root; all lists are sorted once the look is over."""

    def __init__(self) -> None:
        self.looked_at = time.time_ns()
        self.paths: list[str] = []
        """Files, links and empty folders."""
        self.found: dict[str, os.stat_result] = {}
        """How each of the paths was found."""
        self.sizes: list[int] = []
        self.links: list[str] = []
        self.folders: list[str] = [""]
        """Those that hold any of the paths."""
        self.special: dict[str, str] = {}
        """Paths that are no files → what they are."""
        self.unreadable: dict[str, str] = {}
        """Paths that cannot be looked at → why."""
        self.size = 0
        self.newest = 0
        """Nanoseconds UTC of the last change of any of them."""
        self.digest = ""
        """The same if and only if nothing changed that a snapshot shows."""
        self.surroundings = ""
        """The same if nothing came or went in any of the folders, also of what is not shipped."""


def look(listing: Listing) -> Tree:
    """The tree as it is now. Raises RepositoryError."""
    looker = _Looker(listing.root, listing.empty)
    try:
        looker.look(listing.paths())
        while looker.unlisted:
            folders, looker.unlisted = looker.unlisted, []
            looker.look(listing.below(folders))
    finally:
        os.close(looker.fd)
    return looker.finish()


def look_again(root: str, tree: Tree) -> Tree:
    """The paths of `tree` as they are now."""
    looker = _Looker(root, frozenset(tree.paths))
    try:
        looker.look(tree.paths)
    finally:
        os.close(looker.fd)
    return looker.finish()


class _Looker:
    """`unlisted` are folders among the paths, of which what is in them is not known yet."""

    def __init__(self, root: str, empty: AbstractSet[str]) -> None:
        self.fd = os.open(root, _OPEN_FOLDER)
        self.unlisted: list[str] = []
        self._empty = empty
        self._tree = Tree()
        self._found: list[tuple[str, os.stat_result, bytes]] = []
        """Path, status, facts."""
        self._folders: dict[str, os.stat_result | None] = {"": os.fstat(self.fd)}
        """None for what is no folder: a link, a file, or gone. What git has below it is not there."""

    def look(self, paths: Iterable[str]) -> None:
        # Every line here is run for every file: 10,000 times.
        folders, lstat, fd, pack, found = self._folders, os.lstat, self.fd, _FACTS, self._found
        newest = self._tree.newest
        for path in paths:
            parent = path.rpartition("/")[0]
            try:
                if (folders[parent] if parent in folders else self._folder(parent)) is None:
                    continue
                status = lstat(path, dir_fd=fd)
            except (FileNotFoundError, NotADirectoryError):
                continue  # tracked and deleted
            except OSError as error:
                self._tree.unreadable[path] = error.strerror or str(error)
                continue
            mode = status.st_mode
            if mode & _KIND != stat.S_IFREG and not self._is_taken(path, mode):
                continue
            mtime, ctime = status.st_mtime_ns, status.st_ctime_ns
            if mtime > newest:
                newest = mtime
            if ctime > newest:
                newest = ctime
            found.append((path, status, pack(mode, status.st_size, mtime, ctime, status.st_ino)))
        self._tree.newest = newest

    def finish(self) -> Tree:
        import hashlib

        tree = self._tree
        found = sorted(self._found)
        tree.found = {path: status for path, status, _ in found}
        tree.paths = list(tree.found)
        tree.sizes = [status.st_size for _, status, _ in found]
        tree.size = sum(tree.sizes)
        folders = sorted((path, status) for path, status in self._folders.items() if status is not None)
        tree.folders = [path for path, _ in folders]
        modes = "".join([f"{path}\0{status.st_mode}\0" for path, status in folders])
        digest = hashlib.blake2b("\0".join([modes, *tree.paths]).encode("utf-8", "surrogateescape"), digest_size=20)
        digest.update(b"".join([facts for _, _, facts in found]))
        tree.digest = digest.hexdigest()
        times = "".join([f"{path}\0{status.st_ino} {status.st_mtime_ns}\0" for path, status in folders])
        tree.surroundings = hashlib.blake2b(times.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()
        return tree

    def _is_taken(self, path: str, mode: int) -> bool:
        """Whether what is no regular file is one of the tree's paths."""
        if stat.S_ISLNK(mode):
            self._tree.links.append(path)
        elif not stat.S_ISDIR(mode):
            self._tree.special[path] = "no file"
            return False
        elif path not in self._empty:
            self.unlisted.append(path)
            return False
        return True

    def _folder(self, path: str) -> os.stat_result | None:
        parent = path.rpartition("/")[0]
        above = self._folders[parent] if parent in self._folders else self._folder(parent)
        status = None
        if above is not None:
            try:
                found = os.lstat(path, dir_fd=self.fd)
                status = found if stat.S_ISDIR(found.st_mode) else None
            except (FileNotFoundError, NotADirectoryError):
                pass  # gone, with all below it
        self._folders[path] = status
        return status


def largest(tree: Tree, count: int) -> Sequence[tuple[int, str]]:
    """(bytes, path) of the largest files."""
    return sorted(zip(tree.sizes, tree.paths, strict=True), reverse=True)[:count]
