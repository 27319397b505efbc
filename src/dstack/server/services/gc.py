"""Collecting garbage: what nothing refers to leaves the catalog, and then the store. See docs/design/snapshots.md.

    rules for what is kept ─▶ mark ─▶ sweep ─▶ half-dead and small packs are packed anew ─▶ blobs are deleted

Safe beside saves, uploads, downloads and placements; one at a time, by a named lease. It may be left at any step, and
the next one goes on from there.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select

from dstack.domain.parts import parts
from dstack.domain.ports import SECOND
from dstack.server.db.engine import Transaction, declare_write
from dstack.server.db.tables import runs
from dstack.server.services import removal, retention
from dstack.server.services.chunk_index import HELD, NEEDED, ChunkIndex
from dstack.server.services.compaction import Compactor, alive_bytes, half_dead, small
from dstack.server.services.context import Context
from dstack.server.services.doubts import any_taken_out, forget_taken_out
from dstack.server.services.marking import Marker, Without, load_index
from dstack.server.services.named_leases import GC, UPKEEP, Lease, held
from dstack.server.services.sweeping import Sweeper

Frame = dict[str, Any]
FORGET: Final = declare_write("gc.forget")
MOST_NAMED: Final = 100
"""Damaged objects that are named."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a collection is to do. `grace` in seconds; None: as the settings say."""

    dry_run: bool = True
    grace: float | None = None
    despite_damage: bool = False


@dataclass(slots=True)
class Found:
    """What is freed, and why; in a dry run, what would be. Sizes in bytes."""

    dry_run: bool
    snapshots: int = 0
    """That the rules let go."""
    runs: list[str] = field(default_factory=list[str])
    """The same."""
    chunks: int = 0
    kept: int = 0
    """What somebody refers to."""
    held: int = 0
    """What nobody refers to, and a save under way may: it was saved or asked about within the grace."""
    stays: int = 0
    """Dead parts of packs that are more than half alive."""
    written: int = 0
    """New packs, in which parts of others were put together."""
    damaged: int = 0
    """Packs that would be packed anew, and stay as they are: what should live in them is damaged."""
    why: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    """`unreferenced`, `half-dead`, `small`, `unfinished`: packs that go, and bytes."""
    deleted: dict[str, int] = field(default_factory=lambda: {"packs": 0, "bytes": 0})
    """What is gone from the store by now, also what was condemned earlier."""
    waiting: dict[str, int] = field(default_factory=lambda: {"packs": 0, "bytes": 0})
    """What goes as soon as no download can be reading it."""
    waits: int = 0
    """Seconds that takes."""
    held_for: int = 0
    """Seconds of the grace."""

    def add(self, why: str, size: int, packs: int = 1) -> None:
        found = self.why.setdefault(why, {"packs": 0, "bytes": 0})
        found["packs"] += packs
        found["bytes"] += size


def collect(context: Context, wanted: Wanted) -> Iterator[Frame]:
    """Frames: `phase`, `done` after each step, and last `end` with what was found, or `damaged`. Raises Conflict."""
    found = Found(wanted.dry_run)
    settings = context.settings
    grace = settings.gc_grace if wanted.grace is None else wanted.grace
    found.held_for = int(grace + settings.gc_asked_to)
    found.waits = int(min(settings.gc_condemned, grace))
    holding: AbstractContextManager[Lease | None] = nullcontext() if wanted.dry_run else held(context, GC, UPKEEP)
    with holding as lease:
        collection = _Collection(context, found, lease, grace)
        if not (yield from collection.run(wanted)):
            return
    yield {"t": "end", **{name: getattr(found, name) for name in found.__slots__}}


def forget_taken_out_long_ago(context: Context) -> bool:
    """Doubt no more what a repair has taken out so long ago that nobody relies on it; whether there was anything.

    As long as anything is doubted, all that is saved is looked at.
    """
    now = context.database.read(lambda tx: tx.now)
    until = now - int((context.settings.gc_grace + context.settings.gc_asked_to) * SECOND)
    if not context.database.read(lambda tx: any_taken_out(tx, context.project_id, until)):
        return False
    context.database.write(FORGET, lambda tx: forget_taken_out(tx, context.project_id, until))
    return True


class _Collection:
    """One collection; without a lease it only looks."""

    def __init__(self, context: Context, found: Found, lease: Lease | None, grace: float) -> None:
        self._context = context
        self._found = found
        self._lease = lease
        self._grace = grace

    def run(self, wanted: Wanted) -> Generator[Frame, None, bool]:
        """False where it is not known what is needed."""
        yield _phase("looking for what the rules of the project no longer keep")
        without = yield from self._apply_rules()
        # Before anything is read: what is asked about from here on is never older than the grace.
        now = self._context.database.read(lambda tx: tx.now)
        until = now - int((self._grace + self._context.settings.gc_asked_to) * SECOND)
        yield _phase("reading the catalog")
        index = yield from self._load()
        marker = Marker(self._context, index, self._alive)
        yield _phase("marking what is referred to")
        yield from _steps(marker.needed(without, until))
        if marker.damaged and not wanted.despite_damage:
            yield {
                "t": "damaged",
                "objects": [{"id": each.object_id.hex(), "why": each.why} for each in marker.damaged[:MOST_NAMED]],
                "more": max(0, len(marker.damaged) - MOST_NAMED),
            }
            return False
        asked = [number for number, pack in enumerate(index.packs) if pack.asked_at >= until]
        yield _phase("marking what a save under way may rely on")
        yield from _steps(marker.held(asked))
        self._sum_up(index)
        if self._lease is None:
            yield from self._foresee(index, until)
        else:
            yield from self._free(index, marker, self._lease, until)
        return True

    def _apply_rules(self) -> Generator[Frame, None, Without]:
        """Let go of snapshots and runs; or say which would go."""
        if self._lease is not None:
            for count in retention.thin(self._context):
                self._found.snapshots += count
                yield _DONE
            for names in retention.delete_expired(self._context):
                self._found.runs += names
                yield _DONE
            return Without()
        going: set[UUID] = set()
        for ids in retention.thinned(self._context):
            going.update(ids)
            yield _DONE
        self._found.snapshots = len(going)
        self._found.runs = retention.expired(self._context)
        expired: set[UUID] = set()
        for names in parts(self._found.runs, 500):
            query = select(runs.c.id).where(runs.c.project_id == self._context.project_id, runs.c.name.in_(names))
            expired.update(self._context.database.read(lambda tx, query=query: tx.execute(query).scalars().all()))
        return Without(going, expired)

    def _load(self) -> Generator[Frame, None, ChunkIndex]:
        for index in load_index(self._context):
            self._alive()
            yield _DONE
            if index is not None:
                return index
        raise AssertionError("the last of it is the index")

    def _sum_up(self, index: ChunkIndex) -> None:
        for position, flags in enumerate(index.flags):
            if flags & NEEDED:
                self._found.kept += index.length_of(position)
            elif flags & HELD:
                self._found.held += index.length_of(position)

    def _alive(self) -> None:
        if self._lease is not None:
            self._lease.keep()

    # --- what would go, and letting it go ---------------------------------------------------------------------

    def _foresee(self, index: ChunkIndex, until: int) -> Iterator[Frame]:
        alive = index.sums(NEEDED | HELD)
        shrinking, joining = set(half_dead(index, alive, until)), set(small(index, alive, until))
        for number, (pack, living) in enumerate(zip(index.packs, alive, strict=True)):
            if pack.condemned_at is not None or pack.asked_at >= until:
                continue
            if not living:
                self._found.add("unreferenced", pack.size)
            elif number in shrinking:
                self._found.add("half-dead", pack.size - living)
            elif number in joining:
                self._found.add("small", pack.size - living)
            else:
                self._found.stays += pack.size - living
        self._found.chunks = sum(1 for position in index.without(NEEDED | HELD) if index.pack_of(position) >= 0)
        for waiting in removal.unfinished(self._context, until):
            for _, size, _ in waiting:
                self._found.add("unfinished", size)
            yield _DONE
        self._count_waiting(index.packs[number].size for number in _condemned(index))

    def _free(self, index: ChunkIndex, marker: Marker, lease: Lease, until: int) -> Iterator[Frame]:
        yield _phase("taking out what nothing refers to")
        sweeper = Sweeper(self._context, index, marker, lease, until)
        yield from _steps(sweeper.sweep())
        self._found.chunks = sweeper.chunks
        for number in sweeper.condemned:
            self._found.add("unreferenced", index.packs[number].size)
        yield _phase("packing anew what is left of packs that are more than half dead, and small ones")
        alive = alive_bytes(index)
        compactor = Compactor(self._context, index, marker, lease)
        joining = small(index, alive, until)
        yield from _steps(compactor.compact((*half_dead(index, alive, until), *joining)))
        sweeper.condemned.clear()
        yield from _steps(sweeper.condemn(compactor.emptied))
        together = set(joining)
        for number in sweeper.condemned:
            self._found.add("small" if number in together else "half-dead", index.packs[number].size - alive[number])
        self._found.written = compactor.written
        self._found.damaged = len(compactor.damaged)
        gone = {number for number, living in enumerate(alive) if not living} | set(compactor.emptied)
        self._found.stays = sum(
            pack.size - alive[number]
            for number, pack in enumerate(index.packs)
            if number not in gone and pack.asked_at < until
        )
        self._context.database.write(FORGET, lambda tx: self._forget_taken_out(tx, lease, until))
        yield _phase("looking for what saves that were cut off have left")
        for waiting in removal.unfinished(self._context, until):
            removal.adopt(self._context, waiting)
            for _, size, _ in waiting:
                self._found.add("unfinished", size)
            yield _DONE
        yield _phase("deleting")
        now = self._context.database.read(lambda tx: tx.now)
        for removed in removal.remove_condemned(
            self._context, removal.condemned_before(self._context, now, self._grace)
        ):
            self._found.deleted["packs"] += removed.packs
            self._found.deleted["bytes"] += removed.size
            lease.keep()
            yield _DONE
        self._count_waiting(removal.waiting(self._context))

    def _forget_taken_out(self, tx: Transaction, lease: Lease, until: int) -> None:
        lease.write(tx)
        forget_taken_out(tx, self._context.project_id, until)

    def _count_waiting(self, sizes: Iterable[int]) -> None:
        for size in sizes:
            self._found.waiting["packs"] += 1
            self._found.waiting["bytes"] += size


def _condemned(index: ChunkIndex) -> Iterator[int]:
    return (number for number, pack in enumerate(index.packs) if pack.condemned_at is not None)


def _steps(ticks: Iterable[None]) -> Iterator[Frame]:
    for _ in ticks:
        yield _DONE


def _phase(what: str) -> Frame:
    return {"t": "phase", "what": what}


_DONE: Final[Frame] = {"t": "done"}
