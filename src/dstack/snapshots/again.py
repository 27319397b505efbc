"""Chunks that come again in one restore: taken from where it wrote them, proven by their ids, and not fetched twice."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Final

from dstack.snapshots.below import OPEN_FOLDER
from dstack.snapshots.chunking import digest

MOST: Final = 131_072
"""Chunks of which is known where they were written, and as many from before these: 40 MB at the most, and some 80 GB of
large files."""

Place = tuple[bytes, int, int]
"""A file's path below where it is restored, and of a chunk in it the offset and the length."""

_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Places:
    """Where chunks were written, those written last. Other threads may look while one notes."""

    def __init__(self) -> None:
        self._new: dict[bytes, Place] = {}
        self._old: dict[bytes, Place] = {}

    def note(self, chunk_id: bytes, place: Place) -> None:
        if len(self._new) >= MOST:
            self._old, self._new = self._new, {}
        self._new[chunk_id] = place

    def find(self, chunk_ids: Iterable[bytes]) -> dict[bytes, Place]:
        """Where those lie that were noted."""
        found = ((chunk_id, self._new.get(chunk_id) or self._old.get(chunk_id)) for chunk_id in chunk_ids)
        return {chunk_id: place for chunk_id, place in found if place is not None}


def read_again(root: int, places: Mapping[bytes, Place]) -> Iterator[tuple[bytes, bytes]]:
    """Those chunks, by id, that still lie where they were written, below the open folder `root`."""
    in_order = sorted(places.items(), key=itemgetter(1))
    for path, found in groupby(in_order, key=lambda item: item[1][0]):
        with contextlib.suppress(OSError), _opened(root, path) as file:
            for chunk_id, (_, offset, length) in found:
                data = os.pread(file, length, offset)
                if digest(data) == chunk_id:
                    yield chunk_id, data


@contextlib.contextmanager
def _opened(root: int, path: bytes) -> Generator[int]:
    """A file, reached through no link."""
    *parents, name = path.split(b"/")
    with contextlib.ExitStack() as closing:
        folder = root
        for parent in parents:
            folder = os.open(parent, OPEN_FOLDER, dir_fd=folder)
            closing.callback(os.close, folder)
        file = os.open(name, _OPEN_FILE, dir_fd=folder)
        closing.callback(os.close, file)
        yield file
