"""What can go wrong with snapshots.

    SnapshotError
    ├── DamagedStore          bytes in the store are not what they should be
    │   ├── CorruptChunk      a chunk does not have its BLAKE3
    │   ├── MissingChunk      a chunk is in no pack, or its pack is gone
    │   ├── BadPack           a pack cannot be read
    │   └── BadManifest       a root, directory or link object cannot be read, or breaks a rule of the format
    ├── StoreRefused          the store did not take data: disk full, read-only, no right
    │   ├── StoreLost         it lost some before they were on its disk, and they are not in memory any more
    │   └── StoreGone         nor does it give any: its folder, or the disk it lies on, is not there
    ├── CaptureFailed         the folder to save is not there or is no folder
    └── RestoreFailed         the target has something in the way, or a path asked for is not in the snapshot
        └── RestoreStopped    it was told to stop

Every message is a sentence for a person.
"""

from __future__ import annotations

from collections.abc import Sequence


class SnapshotError(Exception):
    """Base of everything this package raises on purpose."""


class DamagedStore(SnapshotError):
    """The store no longer holds what was put into it."""


class CorruptChunk(DamagedStore):
    """A chunk's bytes do not have the BLAKE3 that names it."""

    def __init__(self, chunk_id: bytes, pack_id: bytes, detail: str) -> None:
        self.chunk_id = chunk_id
        self.pack_id = pack_id
        self.detail = detail
        super().__init__(
            f"chunk {chunk_id.hex()} in pack {pack_id.hex()} is damaged: {detail}. "
            "The store's disk or a program has changed it; files that it is part of cannot be restored."
        )


class MissingChunk(DamagedStore):
    """A chunk that a snapshot names is in no pack, or its pack is gone (`pack_id` then says which)."""

    def __init__(self, chunk_id: bytes, pack_id: bytes | None = None) -> None:
        self.chunk_id = chunk_id
        self.pack_id = pack_id
        where = f"its pack {pack_id.hex()} is gone from the store" if pack_id else "no pack in the store holds it"
        super().__init__(f"chunk {chunk_id.hex()} is missing: {where}.")


class BadPack(DamagedStore):
    def __init__(self, key: str, detail: str) -> None:
        self.key = key
        self.detail = detail
        super().__init__(f"pack {key} cannot be read: {detail}.")


class BadManifest(DamagedStore):
    def __init__(self, object_id: bytes, detail: str) -> None:
        self.object_id = object_id
        self.detail = detail
        super().__init__(f"snapshot object {object_id.hex()} cannot be used: {detail}.")


class StoreRefused(SnapshotError):
    """The store did not take data; nothing that refers to it was recorded."""


class StoreLost(StoreRefused):
    """Blobs that the disk did not take, and whose bytes are in memory no more; all else that was put is on the disk."""

    def __init__(self, keys: Sequence[str], stays: str = "") -> None:
        """`stays`: why it cannot be put aside, where that was tried."""
        self.keys = tuple(keys)
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        then = (
            f"it cannot be put aside yet: {stays}; then save again"
            if stays
            else "`dstack verify --repair` puts it aside; it is stored again when it is saved again"
        )
        super().__init__(f"the disk did not take {keys[0]}{more}, and what it held is not in memory any more: {then}")


class StoreGone(StoreRefused):
    """The whole store is not where it was; of what it holds nothing can be said."""


class CaptureFailed(SnapshotError):
    """The folder to save is not there, or is no folder."""


class RestoreFailed(SnapshotError):
    """The target cannot take the snapshot, or the snapshot does not have what was asked for."""


class RestoreStopped(RestoreFailed):
    """Whoever wanted the files does not want them any more."""
