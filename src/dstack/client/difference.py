"""`git diff` for people: what the code of a run has that the commit has not. Bounded, and never used to restore."""

from __future__ import annotations

import os
import stat
import threading

from dstack.client.git import LITERAL, GitFailed, GitOutput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dstack.client.listing import Listing
    from dstack.client.tree import Tree

MOST = 1 << 20
"""Bytes of the text, apart from the line that says that it was cut."""
PATIENCE = 10.0
"""Seconds that a run waits for it."""
_MOST_NAMES = 100_000
"""Bytes of changed files' names; more do not fit into a command line everywhere."""
_HEAD = 8000
"""Bytes at a file's start among which a NUL makes it binary, as git has it."""
_PLAIN = ("--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")


class Difference:
    """Found by a thread of its own, while the code is saved."""

    def __init__(self, listing: Listing, tree: Tree, commit: str | None) -> None:
        self._listing = listing
        self._tree = tree
        self._commit = commit
        self._text: str | None = None
        self.problem = ""
        """Why there is none, once `text` returned."""
        self._thread = threading.Thread(target=self._find, name="dstack-diff", daemon=True)
        self._thread.start()

    def text(self) -> str | None:
        """The whole difference, empty where there is none; None without git, or where git failed."""
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self.problem = f"git diff took longer than {PATIENCE:.0f} s"
            return None
        return self._text

    def _find(self) -> None:
        try:
            tracked = self._of_tracked() if self._commit else b""
        except (GitFailed, FileNotFoundError) as error:
            self.problem = f"git diff failed: {error}"
            return
        pieces = [tracked]
        length = len(tracked)
        untracked, included = self._listing.untracked, self._listing.included
        new = (path for path in self._tree.paths if path in untracked or not (self._commit or path in included))
        for piece in _new_files(self._listing.root, new):
            if length > MOST:
                break
            pieces.append(piece)
            length += len(piece)
        text = b"".join(pieces)
        shown = text[:MOST].decode("utf-8", "backslashreplace")
        self._text = shown if len(text) <= MOST else f"{shown}\n… cut here: the difference is larger than 1 MiB\n"

    def _of_tracked(self) -> bytes:
        """Of what was committed. A file that is kept from the run is kept from its difference, too."""
        root = self._listing.root
        names = GitOutput(root, "diff", "-z", "--name-only", "--no-renames", "--relative", *_PLAIN, "HEAD", "--", ".")
        changed = [name for name in os.fsdecode(names.read()).split("\0") if name and not self._listing.ignores(name)]
        fitting = list(_up_to(changed, _MOST_NAMES))
        if not fitting:
            return b""
        words = [LITERAL, "diff", "--relative", "--submodule=diff", "-l100", *_PLAIN, "HEAD", "--", *fitting]
        text = GitOutput(root, *words).read(MOST + 1)
        more = len(changed) - len(fitting)
        return text + (f"… and {more} more changed files\n".encode() if more else b"")


def _up_to(names: Iterable[str], most: int) -> Iterator[str]:
    for name in names:
        most -= len(name) + 1
        if most < 0:
            return
        yield name


def _new_files(root: str, paths: Iterable[str]) -> Iterator[bytes]:
    """Whole files as git shows new ones."""
    for path in paths:
        full = f"{root}/{path}"
        try:
            mode = os.lstat(full).st_mode
            if stat.S_ISLNK(mode):
                data = os.fsencode(os.readlink(full))
            elif stat.S_ISREG(mode):
                with open(full, "rb") as file:
                    data = file.read(_HEAD)
                    data += b"" if b"\0" in data else file.read(MOST)
            else:
                continue
        except OSError:
            continue  # changed meanwhile, which the look after this one finds
        name = os.fsencode(path)
        kind = b"120000" if stat.S_ISLNK(mode) else b"100755" if mode & 0o111 else b"100644"
        head = b"diff --git a/%b b/%b\nnew file mode %b\n" % (name, name, kind)
        yield head + _content(name, data)


def _content(name: bytes, data: bytes) -> bytes:
    if not data:
        return b""
    if b"\0" in data[:_HEAD]:
        return b"Binary files /dev/null and b/%b differ\n" % name
    lines = data.split(b"\n")
    ended = not lines[-1]
    if ended:
        lines.pop()
    added = b"".join(b"+%b\n" % line for line in lines)
    count = b"1" if len(lines) == 1 else b"1,%d" % len(lines)
    end = b"" if ended else b"\\ No newline at end of file\n"
    return b"--- /dev/null\n+++ b/%b\n@@ -0,0 +%b @@\n%b%b" % (name, count, added, end)
