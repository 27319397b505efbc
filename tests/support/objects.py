"""Objects of snapshots as a writer makes them, to be kept, forged or damaged one by one."""

from __future__ import annotations

from collections.abc import Sequence

from dstack.snapshots.manifests import AnyEntry, Encoded, write_directory


def encode_directory(entries: Sequence[AnyEntry]) -> list[Encoded]:
    """The objects of one folder, whose entries come sorted by name; the last one is the folder itself."""
    objects: list[Encoded] = []
    write_directory(entries, len(entries), objects.append)
    return objects
