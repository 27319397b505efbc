"""Replaces secret values in a stream of bytes, wherever the stream is cut into chunks.

All occurrences of all forms are found, overlapping ones too; each run of overlapping occurrences becomes one `***`.
The end of a chunk that may be the beginning of a form is held back. What is held back is always the newest raw
input, so a reader that can read the input again by offset need not store it: see `Masker.held`.

All forms are looked for in one pass (an Aho-Corasick automaton), so the cost hardly depends on how many there are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dstack.logs.forms import forms

if TYPE_CHECKING:
    from ahocorasick_rs import BytesAhoCorasick

MASK = b"***"
_HEAD = 4
"""Bytes by which the places are found where a form may begin."""
_STRIDE = 1 << 16
"""Bytes whose occurrences are listed at a time: an output made of nothing but secrets costs no more memory."""


class MaskSet:
    """The byte strings to be masked, ready to be looked for. Immutable; made once and shared."""

    def __init__(self, wanted: Iterable[bytes] = ()) -> None:
        """`wanted` are masked as they are; `of` makes a set that has all forms of secret values."""
        self._forms = sorted(set(wanted) - {b""})
        self._longest = max(map(len, self._forms), default=0)
        heads = sorted({form[:_HEAD] for form in self._forms if len(form) > _HEAD})
        self._all = _automaton(self._forms) if self._forms else None
        self._heads = _automaton(heads) if heads else None

    @classmethod
    def of(cls, values: Iterable[bytes]) -> MaskSet:
        """All forms of these secret values."""
        return cls(forms(values))

    def __bool__(self) -> bool:
        return bool(self._forms)

    def __or__(self, other: MaskSet) -> MaskSet:
        return MaskSet((*self._forms, *other._forms)) if self and other else self or other

    @property
    def longest(self) -> int:
        """Length of the longest form: nothing further away than this can belong to an occurrence."""
        return self._longest

    def mask(self, data: bytes) -> bytes:
        """`data`, which is no part of a stream, masked."""
        masker = Masker(self)
        return masker.feed(data) + masker.flush()

    def mask_text(self, text: str) -> str:
        """The same for text."""
        if not self._forms:
            return text
        return self.mask(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def occurs_in(self, data: bytes) -> bool:
        """Whether there is anything to mask."""
        return self._all is not None and bool(self._all.find_matches_as_indexes(data))

    def occurrences(self, buffer: bytes, begin: int, end: int) -> list[tuple[int, int]]:
        """(begin, end) of all forms that begin at a position from `begin` up to `end`, in order."""
        if self._all is None:
            return []
        part = buffer if begin == 0 and end == len(buffer) else buffer[begin : end + self._longest - 1]
        found = self._all.find_matches_as_indexes(part, overlapping=True)
        size = end - begin
        return sorted([(begin + first, begin + last) for _, first, last in found if first < size])

    def pending(self, buffer: bytes) -> int:
        """Where the rest of `buffer` begins that may be the beginning of a form."""
        end = len(buffer)
        start = max(0, end - self._longest + 1)
        if self._heads is not None:
            tail = buffer[start:]
            for _, first, _ in self._heads.find_matches_as_indexes(tail, overlapping=True):
                if self._begins(tail[first:]):
                    return start + first
        for position in range(max(start, end - _HEAD + 1), end):
            if self._begins(buffer[position:]):
                return position
        return end

    def _begins(self, piece: bytes) -> bool:
        """Whether a longer form begins with `piece`."""
        index = bisect_left(self._forms, piece)
        if index < len(self._forms) and self._forms[index] == piece:
            index += 1
        return index < len(self._forms) and self._forms[index].startswith(piece)


NOTHING = MaskSet()


class Masker:
    """Masks what is in `wanted` in what is fed. Fed in any pieces, the output together is that of one piece.

    Without forms it hands every chunk through untouched. `covered` continues an earlier masker (see there).
    """

    def __init__(self, wanted: MaskSet = NOTHING, *, covered: int = 0) -> None:
        self._wanted = wanted
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
        """See `MaskSet.longest`."""
        return self._wanted.longest

    def feed(self, data: bytes) -> bytes:
        """The masked output that `data` makes certain."""
        if not self._wanted:
            return data
        buffer = self._hold + data if self._hold else data
        cut = self._wanted.pending(buffer)
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
        for begin, end in self._wanted.occurrences(window, 0, len(window)):
            if begin < at < end:
                at = end
        return at

    def _mask(self, buffer: bytes, cut: int) -> bytes:
        """Output for `buffer[:cut]`; keeps how far a mask reaches beyond the cut."""
        parts: list[bytes] = []
        position = min(self._covered, cut)
        reach = self._covered
        stride = max(_STRIDE, 4 * self._wanted.longest)
        for at in range(0, cut, stride):
            for begin, end in self._wanted.occurrences(buffer, at, min(at + stride, cut)):
                if begin >= reach:
                    parts += (buffer[position:begin], MASK)
                reach = max(reach, end)
                position = min(reach, cut)
        parts.append(buffer[position:cut])
        self._covered = max(0, reach - cut)
        return b"".join(parts)


def _automaton(wanted: list[bytes]) -> BytesAhoCorasick:
    import ahocorasick_rs  # loaded by the first job that has secrets

    return ahocorasick_rs.BytesAhoCorasick(wanted)
