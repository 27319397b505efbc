"""Which files of a repository go with a run: those that git names, or all where there is no git.

Of these, `.dstackignore` files and `code: {exclude}` take away, and `code: {include}` brings in what git ignores. git
is started at once and read later, and everything else is imported only by whom it concerns.
"""

from __future__ import annotations

import os

from dstack.client.git import LITERAL, GitFailed, GitOutput, git_folder
from dstack.client.repository import RepositoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dstack.client.git import GitFolder
    from dstack.client.ignore import IgnoreRules
    from dstack.client.walking import Walk

_RULES = ".dstackignore"
_SKIPPED = ("--exclude=.venv", "--exclude=__pycache__")
"""Virtual environments and caches: a job cannot use them. Untracked ones go even where no .gitignore names them."""
_MOST_EXCLUDES = 200
_NO_REPOSITORY = ("not a git repository", "invalid gitfile format")
"""What git says of a folder with a `.git` that is none, such as the empty ones in a cache of uv."""


class Listing:
    """The files of the repository at `root`, whose folder may lie anywhere in a git work tree, or in none.

    What is to be said of them is there once `paths` and `below` have been read.
    """

    def __init__(self, root: str, home: str = "") -> None:
        """`home` is dstack's own folder, which is no code wherever it lies.

        Raises RepositoryError where the `.dstackignore` cannot be read.
        """
        self.root = root
        self._home = home
        self.git: GitFolder | None = git_folder(root)
        self.include: Sequence[str] = ()
        self.exclude: Sequence[str] = ()
        self.untracked: set[str] = set()
        """Files that git knows nothing of and does not ignore."""
        self.included: set[str] = set()
        """Files that `include` brought in."""
        self.empty: set[str] = set()
        """Folders that go as such: there is nothing in them."""
        self.special: dict[str, str] = {}
        """Path → what it is: no file."""
        self.unreadable: dict[str, str] = {}
        """Folder or ignore file → why it cannot be read."""
        self.bare_submodules: list[str] = []
        """Submodules that are not checked out."""
        self.unmatched: list[str] = []
        """Patterns of `include` that match nothing."""
        self.without_git = ""
        """Why git was not asked although there is a git directory."""
        self._text = self._read_rules() + _own_folders(root, home)
        self._ignored: IgnoreRules | None = None
        self._excluded: IgnoreRules | None = None
        self._started = self._start(root) if self.git is not None else None

    def again(self) -> Listing:
        """A new look, by the same patterns. Raises RepositoryError."""
        listing = Listing(self.root, self._home)
        listing.include, listing.exclude = self.include, self.exclude
        return listing

    @property
    def asks_git(self) -> bool:
        return self.git is not None and not self.without_git

    def paths(self) -> list[str]:
        """Files relative to the root, sorted; a folder is a repository of its own, or empty. Raises RepositoryError."""
        names = self._read_git("", self._started) if self._started is not None else None
        found = self._walk().paths if names is None else names
        if self.include:
            found += self._included()
        return self._kept(found)

    def below(self, folders: Sequence[str]) -> list[str]:
        """What lies in those of `paths` that turned out to be folders. Raises RepositoryError."""
        found: list[str] = []
        folders = [folder for folder in folders if not self.ignores(folder, folder=True)]
        own = [folder for folder in folders if os.path.lexists(f"{self.root}/{folder}/.git")]
        started = [(folder, self._start(f"{self.root}/{folder}")) for folder in own]
        links = self._submodules([folder for folder in folders if folder not in own])
        for folder, git in started:
            names = self._read_git(folder, git) if git is not None else None
            found += self._walk(folder).paths if names is None else names
        for folder, is_submodule in links.items():
            found += self._plain(folder, is_submodule=is_submodule)
        return self._kept(found)

    def ignores(self, path: str, *, folder: bool = False) -> bool:
        """Whether a `.dstackignore` or `code: {exclude}` names it."""
        rules = (self._ignored, self._excluded)
        return any(each is not None and each.ignores(path, folder=folder) for each in rules)

    def rules(self) -> IgnoreRules:
        """Of the `.dstackignore` files that were come upon."""
        if self._ignored is None:
            from dstack.client.ignore import IgnoreRules

            self._ignored = IgnoreRules(self._text)
        return self._ignored

    # git

    def _start(self, folder: str) -> GitOutput | None:
        words = ["ls-files", "-z", "-t", "--cached", "--others", "--exclude-standard", *_SKIPPED]
        if folder == self.root:
            words += self._prunes()
        try:
            return GitOutput(folder, *words)
        except FileNotFoundError:
            self.without_git = "git is not installed"
            return None

    def _read_git(self, folder: str, git: GitOutput) -> list[str] | None:
        """The paths that git names in `folder`, relative to the root; None where it is for us to look."""
        try:
            output = os.fsdecode(git.read())
        except GitFailed as error:
            if any(words in str(error) for words in _NO_REPOSITORY):
                self.without_git = f"git cannot read {folder or 'this folder'} ({_first_line(error)})"
                return None
            where = f"{self.root}/{folder}" if folder else self.root
            raise RepositoryError(f"git ls-files failed in {where}: {error}") from error
        if git.complaints:
            self._note_complaints(git.complaints, folder)
        entries = output.split("\0")
        entries.pop()  # behind the last NUL
        # A letter, a space, the path; only a repository within this one, which git does not track, ends with a slash.
        found = [entry[2:] for entry in entries if entry[0] != "?"]
        untracked = [entry[2:].rstrip("/") for entry in entries if entry[0] == "?"]
        found += untracked
        if folder:
            found = [f"{folder}/{path}" for path in found]
            untracked = [f"{folder}/{path}" for path in untracked]
        self.untracked.update(untracked)
        if not found and not folder and self.git is not None and self.git.top != self.root:
            return None  # a repository above ignores the whole folder
        return found

    def _prunes(self) -> list[str]:
        """The patterns of the root's `.dstackignore` for git, which then need not walk through what is left out.

        It is but a short cut: where a pattern brings something back, or there are very many, git walks.
        """
        if not self._text or self.git is None:
            return []
        from dstack.client.ignore import patterns

        lines = patterns(self._text)
        if len(lines) > _MOST_EXCLUDES or any(line.startswith("!") for line in lines):
            return []
        folder = os.path.relpath(self.root, self.git.top)
        above = "" if folder == "." else "/" + _escaped(folder)
        # A pattern with a slash is relative to where git's own root is.
        return [f"--exclude={above}/{line.lstrip('/')}" if "/" in line[:-1] else f"--exclude={line}" for line in lines]

    def _note_complaints(self, text: str, folder: str) -> None:
        """git goes on where it cannot read: `warning: could not open directory 'a/': Permission denied`."""
        git = git_folder(f"{self.root}/{folder}" if folder else self.root)
        top = git.top if git is not None else self.root
        for warning in text.split("warning: ")[1:]:
            what, _, rest = warning.partition(" '")
            path, _, why = rest.rstrip("\n").rpartition("': ")
            if what in ("could not open directory", "unable to access"):
                path = os.path.relpath(os.path.join(top, path), self.root)
                if not path.startswith("../"):
                    self.unreadable[path] = why

    def _submodules(self, folders: Sequence[str]) -> dict[str, bool]:
        """Folders that git names without a repository in them → whether each is a submodule's place."""
        asked: list[tuple[str, GitOutput]] = []
        if self._started is not None:
            for folder in folders:
                parent, _, name = f"{self.root}/{folder}".rpartition("/")
                asked.append((folder, GitOutput(parent, LITERAL, "ls-files", "-z", "--stage", "--", name)))
        found = dict.fromkeys(folders, False)
        for folder, git in asked:
            try:
                found[folder] = git.read().startswith(b"160000 ")
            except GitFailed:
                continue  # as one that is none
        return found

    def _plain(self, folder: str, *, is_submodule: bool) -> list[str]:
        """What goes of a folder that git has for a file or a submodule, and which has no repository in it."""
        try:
            is_empty = not os.listdir(f"{self.root}/{folder}")
        except OSError as error:
            self.unreadable[folder] = error.strerror or str(error)
            return []
        if is_empty:
            if is_submodule:
                self.bare_submodules.append(folder)
            self.empty.add(folder)
            return [folder]
        # What stands where a file was tracked is listed by itself; what stands in a submodule's place is not.
        return self._walk(folder).paths if is_submodule or self._started is None else []

    # Rules

    def _read_rules(self) -> str:
        try:
            with open(f"{self.root}/{_RULES}", encoding="utf-8", errors="surrogateescape", newline="") as file:
                return file.read()
        except (FileNotFoundError, IsADirectoryError):
            return ""
        except OSError as error:
            raise RepositoryError(f"cannot read {self.root}/{_RULES}: {error.strerror}") from error

    def _kept(self, paths: list[str]) -> list[str]:
        self._add_rules(paths)
        if self._ignored is not None:
            paths = self._ignored.keep(paths)
        if self.exclude:
            if self._excluded is None:
                from dstack.client.ignore import IgnoreRules

                self._excluded = IgnoreRules("\n".join(self.exclude))
            paths = self._excluded.keep(paths)
        for found in (self.unreadable, self.special):
            for path in [path for path in found if self.ignores(path)]:
                del found[path]
        # Sorted first, because git gives sorted runs; files in a conflict are named several times.
        return list(dict.fromkeys(sorted(paths)))

    def _add_rules(self, paths: Iterable[str]) -> None:
        ending = f"/{_RULES}"
        for path in [path for path in paths if path.endswith(ending)]:
            from dstack.client.walking import read_rules

            folder = path[: -len(ending)]
            try:
                self.rules().add(folder, read_rules(f"{self.root}/{folder}"))
            except OSError as error:
                self.unreadable[path] = error.strerror or str(error)
        if self._text:
            self.rules()

    # Walking

    def _walk(self, folder: str = "") -> Walk:
        from dstack.client.walking import Walk

        walk = Walk(self.root, self.rules())
        walk.all_below(folder)
        return self._walked(walk)

    def _included(self) -> list[str]:
        from dstack.client.ignore import IgnoreRules, literal_start
        from dstack.client.walking import Walk

        starts = {literal_start(line) or "" for line in self.include if not line.startswith("!")}
        outermost = [
            start
            for start in starts
            if start == "" or not any(start.startswith(f"{other}/") for other in starts if other)
        ]
        walk = Walk(self.root, self.rules())
        walk.chosen([""] if "" in starts else sorted(outermost), IgnoreRules("\n".join(self.include)))
        for line in self.include:
            one = IgnoreRules(line)
            if not line.startswith("!") and not any(one.ignores(path) for path in walk.paths):
                self.unmatched.append(line)
        self.included.update(walk.paths)
        return self._walked(walk).paths

    def _walked(self, walk: Walk) -> Walk:
        self.empty |= walk.empty
        self.special |= walk.special
        self.unreadable |= walk.unreadable
        return walk


def _own_folders(root: str, home: str) -> str:
    """Patterns of what dstack keeps for itself in a `home` below `root`: in a person's own home there is one."""
    if not home.startswith(f"{root}/"):
        return ""
    folder = _escaped(home[len(root) :])
    return "".join(f"\n{folder}/{name}/" for name in ("server", "runner", "cli"))


def _escaped(folder: str) -> str:
    """A folder's name in a pattern."""
    return "".join(f"\\{character}" if character in "*?[\\" else character for character in folder)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
