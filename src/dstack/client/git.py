"""What is asked of git: a program that is started without `subprocess`, and files of the git directory read directly.

Reading them is safe in any folder: nothing that a repository configures is executed. Starting `git` costs a few
milliseconds, so a `dstack run` does it once, while it does other things.
"""

from __future__ import annotations

import os

LITERAL = "--literal-pathspecs"
"""Before a command: the names after it are no patterns."""
_TIED = frozenset(
    f"GIT_{name}"
    for name in (
        "ALTERNATE_OBJECT_DIRECTORIES COMMON_DIR DIR EXTERNAL_DIFF GLOB_PATHSPECS GRAFT_FILE ICASE_PATHSPECS"
        " IMPLICIT_WORK_TREE INDEX_FILE NAMESPACE NOGLOB_PATHSPECS OBJECT_DIRECTORY PREFIX SHALLOW_FILE WORK_TREE"
    ).split()
)


class GitFolder:
    """`top`: the work tree's root. `own`: its git directory. `common`: the one that linked work trees share."""

    def __init__(self, top: str, own: str) -> None:
        self.top = top
        self.own = os.path.realpath(own)
        common = _text(f"{self.own}/commondir").strip()
        self.common = os.path.realpath(os.path.join(self.own, common)) if common else self.own


class GitFailed(Exception):
    """git said no; the message is git's own."""


class GitOutput:
    """A running `git`, whose output is collected by `read`."""

    def __init__(self, folder: str, *arguments: str) -> None:
        """Start it in `folder`. Raises FileNotFoundError where there is no git."""
        receive, send = os.pipe()
        complain, told = os.pipe()
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._pid = os.posix_spawnp(
                "git",
                ["git", "-C", folder, *arguments],
                _environment(),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, nothing, 0),
                    (os.POSIX_SPAWN_DUP2, send, 1),
                    (os.POSIX_SPAWN_DUP2, told, 2),
                ],
            )
        except BaseException:
            os.close(receive)
            os.close(complain)
            raise
        finally:
            os.close(send)
            os.close(told)
            os.close(nothing)
        self._receive = receive
        self._complain = complain
        self.complaints = ""
        """What it wrote to its standard error, once it was read."""

    def read(self, most: int | None = None) -> bytes:
        """All of its output, or a little more than `most` bytes of it: then it is ended. Raises GitFailed."""
        import select

        found: dict[int, list[bytes]] = {self._receive: [], self._complain: []}
        length = 0
        cut = False
        poll = select.poll()
        for pipe in found:
            poll.register(pipe, select.POLLIN)
        open_pipes = set(found)
        try:
            while open_pipes and not cut:
                for pipe, _ in poll.poll():
                    piece = os.read(pipe, 1 << 20)
                    found[pipe].append(piece)
                    if not piece:
                        poll.unregister(pipe)
                        open_pipes.remove(pipe)
                    elif pipe == self._receive:
                        length += len(piece)
                        cut = most is not None and length > most
        finally:
            for pipe in found:
                os.close(pipe)
            # With nobody to write to it ends by itself.
            code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self.complaints = os.fsdecode(b"".join(found[self._complain]))
        if code != 0 and not cut:
            raise GitFailed(self.complaints.strip() or f"git ended with {code}")
        return b"".join(found[self._receive])


def git_folder(folder: str) -> GitFolder | None:
    """The work tree that `folder` (a real path) lies in, or None."""
    top = folder
    while True:
        found = f"{top}/.git"
        if os.path.isdir(found):
            return GitFolder(top, found)
        if os.path.isfile(found):
            text = _text(found).strip()
            if text.startswith("gitdir:"):
                return GitFolder(top, os.path.join(top, text[7:].strip()))
        parent = os.path.dirname(top)
        if parent == top:
            return None
        top = parent


def read_head(git: GitFolder) -> tuple[str | None, str | None]:
    """(branch, commit) of the work tree: no branch when detached, no commit in a fresh repository."""
    head = _text(f"{git.own}/HEAD").strip()
    if not head.startswith("ref:"):
        return None, head or None
    reference = head[4:].strip()
    if reference == "refs/heads/.invalid":
        return _ask_head(git)  # the reftable format keeps its references elsewhere
    branch = reference.removeprefix("refs/heads/")
    for path in (f"{git.own}/{reference}", f"{git.common}/{reference}"):
        if commit := _text(path).strip():
            return branch, commit
    for line in _text(f"{git.common}/packed-refs").splitlines():
        commit, _, name = line.partition(" ")
        if name == reference:
            return branch, commit
    return branch, None


def read_remote(git: GitFolder) -> str | None:
    """The URL of `origin`, or of the first remote there is, as git's configuration spells it."""
    remotes: dict[str, str] = {}
    section = ""
    for line in _text(f"{git.common}/config").splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section.startswith('[remote "'):
            name, _, value = line.partition("=")
            if name.strip().lower() == "url":
                remotes.setdefault(section[9:].partition('"')[0], value.strip().strip('"'))
    return remotes.get("origin") or next(iter(remotes.values()), None)


def normalise_remote(url: str) -> str:
    """One spelling for all ways to reach a remote: `github.com/user/repo`, without credentials, ports of the
    scheme, `.git` and trailing slashes; a local path as `file:///real/path`."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        host, colon, path = url.partition(":")
        if not colon or "/" in host:
            return f"file://{os.path.realpath(url)}"
        scheme, rest = "ssh", f"{host}/{path.lstrip('/')}"
    if scheme == "file":
        return f"file://{os.path.realpath(rest)}"
    host, _, path = rest.partition("/")
    host = host.rpartition("@")[2].lower()
    default_port = {"ssh": ":22", "git+ssh": ":22", "https": ":443", "http": ":80", "git": ":9418"}.get(scheme, ":")
    path = path.rstrip("/").removesuffix(".git").rstrip("/")
    return f"{host.removesuffix(default_port)}/{path}"


def _ask_head(git: GitFolder) -> tuple[str | None, str | None]:
    try:
        commit, branch = GitOutput(git.top, "rev-parse", "HEAD", "--abbrev-ref", "HEAD").read().decode().split()
    except (FileNotFoundError, GitFailed, ValueError):
        return None, None
    return (None if branch == "HEAD" else branch), commit


def _environment() -> dict[str, str]:
    """This process's, without what ties git to another repository (dstack may be called by one of git's hooks).

    Messages are in English, because some are read; nothing is asked, and no lock is taken that can be done without.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _TIED}
    return kept | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1"}


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""  # all callers take "not there" and "not readable" alike
