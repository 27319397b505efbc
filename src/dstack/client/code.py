"""The code that goes with a run: which files, whether they changed since the last time, and their snapshot.

An unchanged tree costs one `git ls-files` and one `lstat` per file. What is heavy (hashing, chunking, the wire format)
is imported only when something has changed.
"""

from __future__ import annotations

import json
import os
import stat
import time

from dstack.client.git import GitFailed, GitOutput, git_folder
from dstack.client.repository import RepositoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dstack.client.types import CodeRef

    Save = Callable[[str, Sequence[str], str], CodeRef]
    Confirm = Callable[[int, int, Sequence[tuple[int, str]]], bool]

LARGE_SIZE = 500 * 10**6
LARGE_FILES = 50_000
_RACY = 2_000_000_000
"""Nanoseconds. A file that changed this shortly before it was looked at may change again without its time moving."""
_SKIPPED = (".git", ".venv", "__pycache__")


class Listing:
    """The files of a repository, as git (started at once, read later) or the folder itself names them."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._git = _start_git(root) if git_folder(root) is not None else None

    def paths(self) -> list[str]:
        """Relative to the root, sorted, without what `.dstackignore` names. Raises RepositoryError."""
        return self._kept(self._all_paths())

    def paths_below(self, folders: Sequence[str]) -> list[str]:
        """Those of submodules, and of repositories that lie within this one: git lists only their folders."""
        found: list[str] = []
        for folder in folders:
            below = Listing(f"{self._root}/{folder}")
            found += (f"{folder}/{path}" for path in below._all_paths())
        return self._kept(found)

    def _all_paths(self) -> list[str]:
        paths = _git_paths(self._root, self._git) if self._git is not None else None
        # git knows none of the files where the whole folder is ignored by a repository above it.
        return paths or _walk(self._root)

    def _kept(self, paths: list[str]) -> list[str]:
        try:
            with open(f"{self._root}/.dstackignore", encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
        except FileNotFoundError:
            return paths
        from dstack.client.ignore import IgnoreRules

        return IgnoreRules(text).keep(paths)


class CodeCache:
    """What was shipped last from each root: `path` is one root's file under `home/cli/stat-cache`."""

    def __init__(self, folder: str, root: str, server: str) -> None:
        import hashlib

        name = hashlib.sha256(os.fsencode(f"{root}\0{server}")).hexdigest()[:24]
        self.path = f"{folder}/{name}.json"
        self.files_path = f"{folder}/{name}.files"
        self._content: dict[str, object] = _read(self.path)

    def find(self, digest: str) -> CodeRef | None:
        """The snapshot of a tree with this digest, if that was the last one shipped."""
        code = self._content.get("code")
        return code if self._content.get("digest") == digest else None  # pyright: ignore[reportReturnType] - own file

    @property
    def confirmed_size(self) -> int:
        """The most bytes that were confirmed for this root."""
        size = self._content.get("confirmed_size")
        return size if isinstance(size, int) else 0

    def remember(self, digest: str, code: CodeRef, confirmed_size: int) -> None:
        self._content = {"digest": digest, "code": code, "confirmed_size": confirmed_size}
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            with open(f"{self.path}.{os.getpid()}", "w", encoding="utf-8") as file:
                json.dump(self._content, file)
            os.replace(file.name, self.path)
        except OSError:
            pass  # only a cache: the next run looks again

    def forget(self) -> None:
        """The server does not have what was remembered."""
        self._content = {}
        for path in (self.path, self.files_path):
            try:
                os.unlink(path)
            except OSError:
                pass  # not there, or not ours to remove: then its digest no longer matters


def ship_code(root: str, listing: Listing, cache: CodeCache, save: Save, confirm: Confirm) -> CodeRef:
    """The snapshot of the files of `root`, saved now unless the last one still holds.

    `save(root, paths, cache file)` saves them; `confirm(files, bytes, largest)` is asked before much is shipped.
    Raises RepositoryError when it is refused.
    """
    tree = _look(root, listing.paths())
    while tree.folders:
        tree = _look(root, sorted({*tree.paths, *listing.paths_below(tree.folders)}))
    known = cache.find(tree.digest)
    if known is not None:
        return known
    confirmed = cache.confirmed_size
    if (tree.size > LARGE_SIZE or len(tree.paths) > LARGE_FILES) and tree.size > 1.5 * confirmed:
        largest = sorted(zip(tree.sizes, tree.paths, strict=True), reverse=True)[:10]
        if not confirm(len(tree.paths), tree.size, largest):
            raise RepositoryError(
                f"not shipped: {len(tree.paths)} files, {tree.size} bytes",
                "name what a run does not need in .dstackignore or .gitignore",
            )
        confirmed = tree.size
    code = save(root, tree.paths, cache.files_path)
    # Files that changed during the save, or just before, are looked at once more next time.
    if tree.newest < tree.looked_at - _RACY and _look(root, tree.paths).digest == tree.digest:
        cache.remember(tree.digest, code, confirmed)
    return code


class _Tree:
    """What `lstat` says about the files: a digest over all of it, and the sums."""

    def __init__(self) -> None:
        self.looked_at = time.time_ns()
        self.paths: list[str] = []
        self.sizes: list[int] = []
        self.folders: list[str] = []
        self.size = 0
        self.newest = 0
        self.digest = ""


def _look(root: str, paths: Sequence[str]) -> _Tree:
    import hashlib

    tree = _Tree()
    seen: list[str] = []
    for path in paths:
        try:
            found = os.lstat(f"{root}/{path}")
        except (FileNotFoundError, NotADirectoryError):
            continue  # tracked and deleted
        if stat.S_ISDIR(found.st_mode):
            tree.folders.append(path)
            continue
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            continue  # sockets, devices and pipes are no code
        changed = max(found.st_mtime_ns, found.st_ctime_ns)
        tree.newest = max(tree.newest, changed)
        tree.size += found.st_size
        tree.paths.append(path)
        tree.sizes.append(found.st_size)
        seen.append(f"{path}\0{found.st_mode} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}")
    content = "\0\0".join(seen).encode("utf-8", "surrogateescape")
    tree.digest = hashlib.blake2b(content, digest_size=20).hexdigest()
    return tree


def _start_git(folder: str) -> GitOutput | None:
    # Virtual environments and caches are skipped even where no .gitignore names them: a job cannot use them.
    skipped = [f"--exclude={name}" for name in _SKIPPED[1:]]
    try:
        return GitOutput(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard", *skipped)
    except FileNotFoundError:
        return None  # a work tree on a machine without git: every file counts


def _git_paths(root: str, git: GitOutput) -> list[str]:
    try:
        names = os.fsdecode(git.read()).split("\0")
    except GitFailed as error:
        raise RepositoryError(f"git ls-files failed in {root}: {error}") from error
    return sorted({name.rstrip("/") for name in names if name})


def _walk(root: str) -> list[str]:
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        # Links to folders are shipped as links.
        found += (f"{folder}/{name}" for name in folders if os.path.islink(f"{folder}/{name}"))
        folders[:] = [name for name in folders if name not in _SKIPPED]
        found += (f"{folder}/{name}" for name in files)
    return sorted(path[len(root) + 1 :] for path in found)


def _read(path: str) -> dict[str, object]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}  # pyright: ignore[reportUnknownVariableType] - own file
