"""The repository a command is given in: where its root is, what it is called, and its workflow files.

A folder is a repository because of its `.dstack/workflows.yaml` (or `.yml`, or folder `.dstack/workflows/`), never
because of a bare `.dstack`: the home folder has one.
"""

from __future__ import annotations

import os
import sys

from dstack.client.git import git_folder, normalise_remote, read_head, read_remote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dstack.client.git import GitFolder
    from dstack.client.sent import RepositoryRef

MOST_TEXT = 16 << 20
"""Bytes of all workflow files, of which the server takes half: what is larger is not even sent."""


class RepositoryError(Exception):
    """There is no repository where one is needed, or its files cannot be read. `hint` says what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def is_repository(folder: str) -> bool:
    base = f"{folder}/.dstack/workflows"
    return os.path.isfile(f"{base}.yaml") or os.path.isfile(f"{base}.yml") or os.path.isdir(base)


def real_path(path: str) -> str:
    """`path` without links; where the file system takes `Project` and `project` for one, as that is spelled on disk.

    Runs, tags and caches belong to a path: typed in another way it would be another repository. Raises RepositoryError
    for one that is relative to a folder which was deleted.
    """
    real = os.path.realpath(path if os.path.isabs(path) else os.path.join(current_folder(), path))
    if sys.platform != "darwin":
        return real
    import fcntl

    try:
        fd = os.open(real, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return real  # not there, or not for us to look at: whoever needs it says so
    try:
        spelled = fcntl.fcntl(fd, _F_GETPATH, bytes(_MAX_PATH))
    finally:
        os.close(fd)
    return os.fsdecode(spelled.partition(b"\0")[0])


_F_GETPATH = 50
"""`fcntl.F_GETPATH` of macOS (fcntl(2) there)."""
_MAX_PATH = 1024


def current_folder() -> str:
    """Raises RepositoryError where it was deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise RepositoryError("the current folder does not exist any more", "change to one that does") from None


def find_root(folder: str | None = None) -> str | None:
    """The real path of the nearest folder, from `folder` (default: the current one) upwards, that is a repository.

    Raises RepositoryError where the current folder was deleted.
    """
    at = real_path(folder or current_folder())
    while not is_repository(at):
        parent = os.path.dirname(at)
        if parent == at:
            return None
        at = parent
    return at


def require_root(given: str | None) -> str:
    """The root `given` with --repo, else the nearest one upwards. Raises RepositoryError."""
    if given is not None:
        root = real_path(given)
        if is_repository(root):
            return root
        if not os.path.isdir(root):
            raise RepositoryError(f"{given} is not a folder", "--repo takes the folder that holds .dstack/")
        above = find_root(root)
        hint = f"did you mean --repo {above}?" if above else "--repo takes the folder that holds .dstack/"
        raise RepositoryError(f"{given} has no .dstack/workflows.yaml", hint)
    root = find_root()
    if root is None:
        raise RepositoryError(
            f"no .dstack/workflows.yaml in {os.getcwd()} or any folder above it",
            "change to the folder of your project, or name it with --repo DIR; `dstack init` begins a new one",
        )
    return root


def read_files(root: str, paths: Sequence[str] | None = None) -> dict[str, str]:
    """The YAML files under `.dstack`, and what they include, by path relative to `root`. Raises RepositoryError.

    Where `paths` are given, only those and what they include.
    """
    files: dict[str, str] = {}
    left = MOST_TEXT
    if paths is not None:
        waiting = list(paths)
    else:
        folder = f"{root}/.dstack"
        waiting = [path[len(root) + 1 :] for path in _yaml_files(folder, deep=False)]
        waiting += [path[len(root) + 1 :] for path in _yaml_files(f"{folder}/workflows", deep=True)]
    while waiting:
        path = waiting.pop(0)
        if path in files:
            continue
        _require_text(root, path)
        content = _read_file(f"{root}/{path}", left)
        left -= len(content)
        files[path] = text = _decode(f"{root}/{path}", content)
        # One that is not there, or lies elsewhere, is the server's to tell of, with its place.
        waiting += [included for included in _included(text) if _is_inside(root, included)]
    return files


def _is_inside(root: str, path: str) -> bool:
    """Whether a file of the repository stands at `path`: a link may lead to one that nobody meant to send."""
    real = os.path.realpath(f"{root}/{path}")
    return real.startswith(f"{root.rstrip('/')}/") and os.path.isfile(real)


def _require_text(root: str, path: str) -> None:
    """See that `path`, below `root`, can be sent: the names above are this machine's own business."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise RepositoryError(f"the name of {_shown(f'{root}/{path}')} is not UTF-8", "rename the file") from None


def _read_file(path: str, most: int) -> bytes:
    """What a file holds; of one with more than `most` bytes nothing is kept."""
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise RepositoryError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > most:
        message = f"the workflow files up to {path} hold more than {MOST_TEXT >> 20} MiB"
        raise RepositoryError(message, "keep data out of `.dstack`, and out of what is included")
    return content


def _decode(path: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        message = f"{path} is not UTF-8: byte {error.start} is {content[error.start]:#x}"
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            message = f"{path} is UTF-16, not UTF-8"
        raise RepositoryError(message, "save it as UTF-8 text") from None


def _included(text: str) -> list[str]:
    """What may be paths of YAML files after `include:` at the root of a file. A YAML parser would cost too much."""
    if "include" not in text:
        return []
    import re

    found: list[str] = []
    for block in re.findall(r"""^["']?include["']?\s*:(.*(?:\n(?:[\s#-].*)?)*)""", text, re.MULTILINE):
        for quoted in re.findall(r"""\"([^"\n]+)\"|'([^'\n]+)'|([^\s,"'\[\]]+)""", block):
            path = os.path.normpath("".join(quoted))
            if path.endswith((".yaml", ".yml")) and not path.startswith(("/", "../")):
                found.append(path)
    return found


def identify(root: str) -> RepositoryRef:
    """What the server knows the repository at `root` (a real path) by.

    Its key is the git remote and the folder within the work tree; without a remote a random id that is kept in the
    git directory takes the remote's place; without git, the real path is all there is.
    """
    git = git_folder(root)
    shown = _shown(root)
    found: RepositoryRef = {"key": shown, "name": os.path.basename(shown), "root": shown}
    if git is None:
        return found
    folder = _shown(os.path.relpath(root, git.top))
    suffix = "" if folder == "." else f":{folder}"
    branch, commit = read_head(git)
    found["branch"] = _shown(branch) if branch else None
    found["commit"] = commit
    url = read_remote(git)
    remote = _shown(normalise_remote(url)) if url else None
    own = _own_id(git)
    if remote is not None:
        found["remote"] = remote
        found["key"] = remote + suffix
        # What stays when a remote is added or moves: the tags of the old key come along.
        found["aliases"] = [own + suffix] if own else []
    elif own is not None:
        found["key"] = own + suffix
    return found


def _shown(path: str) -> str:
    """A path as text that can be sent: bytes that are not UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _own_id(git: GitFolder) -> str | None:
    """The random id that is kept in a git directory, made if need be; None where that cannot be written."""
    path = f"{git.common}/dstack-id"
    for attempt in range(2):
        try:
            with open(path, encoding="ascii") as file:
                return f"git-{file.read().strip()}"
        except FileNotFoundError:
            if attempt:
                return None
        except OSError:
            return None
        # Written beside and linked into place: of two commands that do so at once, both then read the winner's.
        own = f"{path}.{os.getpid()}"
        try:
            with open(own, "w", encoding="ascii") as file:
                file.write(os.urandom(16).hex())
            try:
                os.link(own, path)
            finally:
                os.unlink(own)
        except FileExistsError:
            continue
        except OSError:
            return None  # a git directory that cannot be written: the path will do
    return None


def _yaml_files(folder: str, *, deep: bool) -> list[str]:
    found: list[str] = []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return found
    except OSError as error:
        raise RepositoryError(f"cannot read {folder}: {error.strerror or error}") from error
    for entry in entries:
        if entry.name.endswith((".yaml", ".yml")) and entry.is_file():
            found.append(entry.path)
        elif deep and entry.is_dir(follow_symlinks=False):
            found += _yaml_files(entry.path, deep=True)
    return found
