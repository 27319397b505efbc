"""Replaces secret values in a stream of bytes, wherever the stream is cut into chunks.

All occurrences of all forms are found, overlapping ones too; each run of overlapping occurrences becomes one `***`.
The end of a chunk that may be the beginning of a form is held back. What is held back is always the newest raw
input, so a reader that can read the input again by offset need not store it: see `Masker.held`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from dstack.logs.forms import forms

MASK = b"***"


class Masker:
    """Masks the forms of `values` in what is fed. Fed in any pieces, the output together is that of one piece.

    Without values it hands every chunk through untouched. `covered` continues an earlier masker (see there).
    """

    def __init__(self, values: Iterable[bytes] = (), *, covered: int = 0) -> None:
        self._forms = sorted(forms(values))
        self._firsts = frozenset(form[0] for form in self._forms)
        self._longest = max(map(len, self._forms), default=0)
        self._hold = b""
        self._covered = covered

    @property
    def held(self) -> int:
        """How many of the last bytes fed are held back; a restart reads from that much before its raw offset."""
        return len(self._hold)

    @property
    def covered(self) -> int:
        """How many of the next bytes (first the held ones) are masked by a `***` that was already put out."""
        return self._covered

    @property
    def longest(self) -> int:
        """Length of the longest form: nothing further away than this can belong to an occurrence."""
        return self._longest

    def feed(self, data: bytes) -> bytes:
        """The masked output that `data` makes certain."""
        if not self._forms:
            return data
        buffer = self._hold + data if self._hold else data
        cut = self._pending(buffer)
        output = self._mask(buffer, cut)
        self._hold = buffer[cut:]
        return output

    def flush(self) -> bytes:
        """The held-back rest at the end of the stream: it did not become a secret."""
        output = self._mask(self._hold, len(self._hold))
        self._hold = b""
        self._covered = 0
        return output

    def discard(self) -> None:
        """Forget the held-back rest, where the stream is cut on purpose and the rest could be half a secret."""
        self._hold = b""
        self._covered = 0

    def safe_cut(self, window: bytes, at: int) -> int:
        """The first position from `at` on where cutting `window` cuts no occurrence in two.

        `window` should reach `longest` bytes to both sides of `at`.
        """
        for begin, end in self._occurrences(window):
            if begin < at < end:
                at = end
        return at

    def _mask(self, buffer: bytes, cut: int) -> bytes:
        """Output for `buffer[:cut]`; keeps how far a mask reaches beyond the cut."""
        parts: list[bytes] = []
        position = min(self._covered, cut)
        reach = self._covered
        for begin, end in self._occurrences(buffer):
            if begin >= cut:
                break
            if begin >= reach:
                parts += (buffer[position:begin], MASK)
            reach = max(reach, end)
            position = min(reach, cut)
        parts.append(buffer[position:cut])
        self._covered = max(0, reach - cut)
        return b"".join(parts)

    def _occurrences(self, buffer: bytes) -> list[tuple[int, int]]:
        """All (begin, end) of all forms, in order."""
        found: list[tuple[int, int]] = []
        for form in self._forms:
            begin = buffer.find(form)
            while begin >= 0:
                found.append((begin, begin + len(form)))
                begin = buffer.find(form, begin + 1)
        found.sort()
        return found

    def _pending(self, buffer: bytes) -> int:
        """Where the rest of `buffer` begins that may be the beginning of a form."""
        end = len(buffer)
        for begin in range(max(0, end - self._longest + 1), end):
            if buffer[begin] not in self._firsts:
                continue
            tail = buffer[begin:]
            index = bisect_left(self._forms, tail)
            if index < len(self._forms) and self._forms[index] == tail:
                index += 1
            if index < len(self._forms) and self._forms[index].startswith(tail):
                return begin
        return end
