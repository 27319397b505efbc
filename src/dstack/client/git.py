"""What is asked of git: a program that is started without `subprocess`, and files of the git directory read directly.

Reading them is safe in any folder: nothing that a repository configures is executed. Starting `git` costs a few
milliseconds, so a `dstack run` does it once, while it does other things.
"""

from __future__ import annotations

import os


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
        self._command = ["git", "-C", folder, *arguments]
        receive, send = os.pipe()
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._pid = os.posix_spawnp(
                "git",
                self._command,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, nothing, 0),
                    (os.POSIX_SPAWN_DUP2, send, 1),
                    (os.POSIX_SPAWN_DUP2, nothing, 2),
                ],
            )
        except BaseException:
            os.close(receive)
            raise
        finally:
            os.close(send)
            os.close(nothing)
        self._receive = receive

    def read(self) -> bytes:
        """All of its output. Raises GitFailed."""
        pieces: list[bytes] = []
        with open(self._receive, "rb", buffering=0) as file:
            while piece := file.read(1 << 20):
                pieces.append(piece)
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if code != 0:
            raise GitFailed(_complaint(self._command) or f"git ended with {code}")
        return b"".join(pieces)


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


def _complaint(command: list[str]) -> str:
    """What a command that failed says, from a second attempt: the first one had no place for it."""
    import subprocess

    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return done.stderr.strip()


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""  # all callers take "not there" and "not readable" alike
