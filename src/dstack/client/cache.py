"""What was shipped last from each root: two small files under `home/cli/stat-cache`, and one for the save's own use.

Only a cache: what cannot be written is looked at again. Two commands at once leave one's files or the other's.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from dstack.client.sent import CodeRef

_KEPT = 4
"""Trees that are remembered: workflows may differ in what they ship."""
_FORMAT = 3


class Shipped:
    """A tree that the server has. `diff` is None where it is not known."""

    def __init__(
        self, code: CodeRef, notes: list[str], surroundings: str, special: dict[str, str], diff: str | None
    ) -> None:
        self.code = code
        self.notes = notes
        self.surroundings = surroundings
        self.special = special
        """What is no file in the folders of the tree, ignored or not → what it is."""
        self.diff = diff


class CodeCache:
    """The files of one root and server."""

    def __init__(self, folder: str, root: str, server: str) -> None:
        import hashlib

        name = hashlib.sha256(os.fsencode(f"{root}\0{server}")).hexdigest()[:24]
        self.path = f"{folder}/{name}.json"
        self.diff_path = f"{folder}/{name}.diff"
        self.files_path = f"{folder}/{name}.files"
        self._content = _read(self.path)

    @property
    def confirmed_size(self) -> int:
        """The most bytes that were confirmed for this root."""
        return self._content["confirmed_size"]

    def find(self, digest: str, commit: str | None) -> Shipped | None:
        """What is known of the tree with this digest; of its difference from `commit`, if it was that of the last."""
        for known, code, notes, surroundings, special in self._content["trees"]:
            if known == digest:
                return Shipped(code, notes, surroundings, special, self._diff([digest, commit]))
        return None

    def special(self, surroundings: str) -> dict[str, str] | None:
        """What is no file in folders that look so, if that is known."""
        for *_, known, special in self._content["trees"]:
            if known == surroundings:
                return special
        return None

    def remember(self, digest: str, commit: str | None, shipped: Shipped, confirmed_size: int) -> None:
        others = [tree for tree in self._content["trees"] if tree[0] != digest]
        entry = [digest, shipped.code, shipped.notes, shipped.surroundings, shipped.special]
        self._content["trees"] = [entry, *others][:_KEPT]
        self._content["confirmed_size"] = confirmed_size
        self._content["diff_of"] = [digest, commit] if shipped.diff is not None else None
        self._content["has_diff"] = bool(shipped.diff)
        # The difference first: until the other file is there, nothing refers to it.
        if shipped.diff:
            _write(self.diff_path, json.dumps([digest, commit]) + "\n" + shipped.diff)
        self._store()

    def patterns(self, files: Mapping[str, str], workflow: str) -> tuple[list[str], list[str]] | None:
        """What `code:` of these texts says for `workflow`, if it was read before."""
        kept = self._content["patterns"]
        found = kept["of"].get(workflow) if kept["texts"] == _digest(files) else None
        return (found[0], found[1]) if found else None

    def remember_patterns(self, files: Mapping[str, str], workflow: str, found: tuple[list[str], list[str]]) -> None:
        texts = _digest(files)
        if self._content["patterns"]["texts"] != texts:
            self._content["patterns"] = _no_patterns(texts)
        self._content["patterns"]["of"][workflow] = found
        self._store()

    def forget(self) -> None:
        """The server does not have what was remembered."""
        self._content = _empty()
        for path in (self.path, self.diff_path, self.files_path):
            try:
                os.unlink(path)
            except OSError:
                pass  # not there, or not ours to remove: then its digest no longer matters

    def _diff(self, of: list[str | None]) -> str | None:
        if self._content["diff_of"] != of:
            return None
        if not self._content["has_diff"]:
            return ""
        try:
            with open(self.diff_path, encoding="utf-8", newline="") as file:
                # Another command may have put its own in place meanwhile.
                return file.read() if file.readline() == json.dumps(of) + "\n" else None
        except (OSError, ValueError):
            return None

    def _store(self) -> None:
        _write(self.path, json.dumps(self._content))


def _digest(files: Mapping[str, str]) -> str:
    import hashlib

    return hashlib.blake2b(json.dumps(sorted(files.items())).encode(), digest_size=20).hexdigest()


def _empty() -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "trees": [],
        "confirmed_size": 0,
        "diff_of": None,
        "has_diff": False,
        "patterns": _no_patterns(""),
    }


def _no_patterns(texts: str) -> dict[str, Any]:
    return {"texts": texts, "of": {}}


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content: Any = json.load(file)
            return content if content["format"] == _FORMAT else _empty()
    except (OSError, ValueError, TypeError, KeyError):
        return _empty()


def _write(path: str, text: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(f"{path}.{os.getpid()}", "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError:
        pass  # the next run looks again
