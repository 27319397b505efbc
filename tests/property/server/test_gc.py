"""Collecting garbage beside saves, uploads, downloads, deleted runs and thinning, in any order and interleaved with
them: no byte that somebody refers to is lost, and an object in the catalog always has all that it names."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from dstack.protocol.messages import SavedArtifact
from dstack.server.db.engine import declare_write
from dstack.server.db.tables import artifacts as artifacts_table
from dstack.server.db.tables import chunks, jobs, leases, packs, runs
from dstack.server.services import artifacts, compaction, delete, gc, removal, retention, uploads
from dstack.server.services.catalog import store_of
from dstack.server.services.errors import SnapshotMissing
from dstack.server.services.repositories import RepositoryRef
from dstack.server.services.uploads import Upload, UploadedArtifact
from dstack.snapshots import writer
from dstack.snapshots.capture import save
from dstack.snapshots.checking import begins_like_an_object, names_in
from dstack.snapshots.listing import Leaf, walk_tree
from dstack.snapshots.manifests import FileEntry, file_chunks
from dstack.snapshots.statcache import FileCache
from dstack.snapshots.store import SnapshotStore
from tests.property.server.interleaving import Blobs, CutOff, Interleaved
from tests.support.emptied import emptied_postgresql, empty, shared_postgresql
from tests.support.stores import later
from tests.support.world import REPOSITORY, World

__all__ = ["emptied_postgresql", "shared_postgresql"]

LIVE = declare_write("test-gc-live")
CRASH = declare_write("test-gc-crash")
HOUR = 3600.0
CONTENTS = [bytes([number]) + bytes(range(number, 256)) * 6 for number in range(12)]
"""Few, so that equal content comes back after it was collected."""
FILES = ["a", "b", "deep/c", "deep/d", "deep/er/e"]
Tree = dict[str, bytes]


@dataclass
class Saved:
    """A snapshot that somebody refers to, or is about to, and what was in the folder."""

    artifact: SavedArtifact
    tree: Tree


class GcMachine(RuleBasedStateMachine):
    new_database: Callable[[Path], str]
    """The URL of one without rows, in or for a folder; given by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="dstack-gc-"))
        self.world = World(type(self).new_database(self.folder), self.folder / "home")
        self.world.context.blobs = Blobs(self.world.clock)
        self.gc: Iterator[gc.Frame] | None = None
        self.trees: list[Tree] = [{}, {}]
        self.caches = [FileCache(), FileCache()]
        self.waiting: list[Saved] = []
        self.references: dict[str, list[Saved]] = {}
        """By run."""
        for number in range(2):
            (self.folder / f"{number}").mkdir()

    def teardown(self) -> None:
        if self.gc is not None:
            self.gc.close()  # type: ignore[attr-defined]  # it is a generator
        self.world.close()
        shutil.rmtree(self.folder)

    # --- writers ---------------------------------------------------------------------------------------------------

    @initialize(contents=st.lists(st.sampled_from(CONTENTS), min_size=len(FILES), max_size=len(FILES)))
    def first(self, contents: list[bytes]) -> None:
        for name, content in zip(FILES, contents, strict=True):
            self.write(0, name, content)

    @rule(number=st.integers(0, 1), name=st.sampled_from(FILES), content=st.sampled_from(CONTENTS))
    def write(self, number: int, name: str, content: bytes) -> None:
        path = self.folder / str(number) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.trees[number][name] = content

    @rule(
        number=st.integers(0, 1),
        turns=st.lists(st.integers(0, 3), max_size=12),
        record=st.booleans(),
        fresh=st.booleans(),
    )
    def save(self, number: int, turns: list[int], record: bool, fresh: bool) -> None:
        cache = FileCache() if fresh else self.caches[number]
        store = Interleaved(self, iter(turns)).store()
        found = save(self.folder / str(number), store, cache=cache, live=True, clock=later())
        artifact = SavedArtifact(
            path="out", manifest_id=found.manifest_id, content_id=found.content_id, files=found.files, size=found.size
        )
        self.waiting.append(Saved(artifact, dict(self.trees[number])))
        if record:
            self.record()

    @rule(
        number=st.integers(0, 1),
        steps=st.integers(0, 40),
        turns=st.lists(st.integers(0, 8), min_size=12, max_size=12),
        name=st.sampled_from(FILES),
        content=st.sampled_from(CONTENTS),
    )
    def save_beside_the_collection_of_what_it_needs(
        self, number: int, steps: int, turns: list[int], name: str, content: bytes
    ) -> None:
        """Nobody refers any more to what the folder held when it was saved last, and the next save relies on it."""
        while self.references:
            self.remove_run(0)
        self.waiting.clear()
        self.whole_gc()
        self.save(number, [], record=True, fresh=False)
        self.remove_run(0)
        self.wait(60.0)
        self.begin_gc()
        self.some_steps(steps)
        self.write(number, name, content)
        self.save(number, turns, record=False, fresh=False)
        self.whole_gc()
        self.record()

    @rule(
        number=st.integers(0, 1),
        steps=st.integers(0, 40),
        turns=st.lists(st.integers(0, 8), min_size=12, max_size=12),
        name=st.sampled_from(FILES),
        picked=st.lists(st.integers(0, len(CONTENTS) - 1), min_size=3, max_size=3),
    )
    def save_beside_packs_that_are_put_together(
        self, number: int, steps: int, turns: list[int], name: str, picked: list[int]
    ) -> None:
        """Small packs that are needed and that nobody asked about lately, until somebody does."""
        self.whole_gc()
        for one in picked[:2]:
            self.write(number, name, CONTENTS[one])
            self.save(number, [], record=True, fresh=False)
        self.wait(60.0)
        self.begin_gc()
        self.some_steps(steps)
        self.write(number, name, CONTENTS[picked[2]])
        self.save(number, turns, record=False, fresh=False)
        self.download(0, turns)
        self.whole_gc()
        self.record()

    @rule(number=st.integers(0, 1), turns=st.lists(st.integers(0, 3), max_size=6), after=st.integers(0, 6))
    def save_is_cut_off(self, number: int, turns: list[int], after: int) -> None:
        store = Interleaved(self, iter(turns), after).store()
        try:
            save(self.folder / str(number), store, cache=self.caches[number], live=True, clock=later())
        except CutOff:
            pass

    @rule()
    def record(self) -> None:
        """However long after the save: the reference is refused, or all of it is there."""
        if not self.waiting:
            return
        saved = self.waiting.pop(0)
        uploaded = UploadedArtifact("out", saved.artifact.manifest_id.hex())
        try:
            made = uploads.upload(self.world.context, Upload((uploaded,), RepositoryRef(REPOSITORY, "digits")), None)
        except SnapshotMissing:
            return
        self.references.setdefault(made.name, []).append(saved)

    @rule()
    def record_live(self) -> None:
        """A further snapshot of the newest run's job, which thinning may let go of later."""
        if not self.waiting or not self.references:
            return
        saved = self.waiting.pop(0)
        name = list(self.references)[-1]
        context = self.world.context

        def write(tx: Any) -> bool:
            from dstack.server.services.catalog import hold_for

            if hold_for(tx, context, [saved.artifact.manifest_id]):
                return False
            [run] = [row for row in tx.execute(runs.select()).all() if row.name == name]
            [job] = [row for row in tx.execute(jobs.select()).all() if row.run_id == run.id]
            artifacts.record(tx, context, (run.id, job.id, 0), (saved.artifact,), at=tx.now, live=True)
            return True

        if context.database.write(LIVE, write):
            self.references[name].append(saved)

    # --- what goes -------------------------------------------------------------------------------------------------

    @rule(position=st.integers(0, 5))
    def remove_run(self, position: int) -> None:
        names = list(self.references)
        if names:
            name = names[position % len(names)]
            delete.delete(self.world.context, [name], force=True, actor=None)
            del self.references[name]

    @rule()
    def thin(self) -> None:
        for _ in retention.thin(self.world.context):
            pass
        self.forget_thinned()

    def forget_thinned(self) -> None:
        left = {bytes(row.manifest_id) for row in self.world.rows(artifacts_table)}
        for name, found in self.references.items():
            self.references[name] = [saved for saved in found if saved.artifact.manifest_id in left]

    @rule(hours=st.sampled_from([0.1, 2.0, 30.0, 60.0]))
    def wait(self, hours: float) -> None:
        self.world.clock.advance(hours * HOUR)

    @rule()
    def delete_condemned(self) -> None:
        """As the server does now and then."""
        now = self.world.clock.now()
        for _ in removal.remove_condemned(self.world.context, removal.condemned_before(self.world.context, now)):
            pass

    # --- collecting ------------------------------------------------------------------------------------------------

    @rule()
    def begin_gc(self) -> None:
        if self.gc is None:
            self.gc = gc.collect(self.world.context, gc.Wanted(dry_run=False))

    @rule(steps=st.integers(1, 12))
    def some_steps(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    @rule()
    def whole_gc(self) -> None:
        self.begin_gc()
        while self.gc is not None:
            self.step()

    @rule()
    def gc_is_killed(self) -> None:
        """The next one finds what it left, its lease included."""
        if self.gc is not None:
            self.world.context.database.write(CRASH, lambda tx: tx.execute(leases.delete()))
            self.gc.close()  # type: ignore[attr-defined]  # it is a generator
            self.gc = None

    @rule()
    def dry_run(self) -> None:
        before = self.everything()
        frames = list(gc.collect(self.world.context, gc.Wanted(dry_run=True)))
        assert frames[-1]["t"] == "end"
        assert self.everything() == before, "a dry run changes nothing"

    def step(self) -> None:
        if self.gc is None:
            return
        frame = next(self.gc, None)
        if frame is None:
            self.gc = None
            return
        assert frame["t"] != "damaged", frame
        self.forget_thinned()

    def everything(self) -> list[Any]:
        tables = [self.world.rows(table) for table in (chunks, packs, artifacts_table, runs, leases)]
        return [*tables, [info.key for info in self.world.context.blobs.list("")]]

    # --- what must be true -----------------------------------------------------------------------------------------

    @rule(position=st.integers(0, 5), turns=st.lists(st.integers(0, 4), max_size=12))
    def download(self, position: int, turns: list[int]) -> None:
        """Beside a collection."""
        found = [saved for of_run in self.references.values() for saved in of_run[-1:]]
        if found:
            saved = found[position % len(found)]
            assert read(Interleaved(self, iter(turns)).store(), saved.artifact.manifest_id) == saved.tree

    @invariant()
    def nothing_is_lost(self) -> None:
        store = store_of(self.world.context)
        for found in self.references.values():
            for saved in found:
                assert read(store, saved.artifact.manifest_id) == saved.tree

    @invariant()
    def objects_have_what_they_name(self) -> None:
        known = [bytes(row.chunk_id) for row in self.world.rows(chunks)]
        for chunk_id, data in store_of(self.world.context).read_chunks(known):
            if begins_like_an_object(data):
                names = names_in(chunk_id, data)
                wanted = {*names.objects, *names.pages, *(chunk.chunk_id for chunk in names.chunks())}
                assert wanted <= set(known), "an object lost what it names"


def read(store: SnapshotStore, manifest_id: bytes) -> Tree:
    tree: Tree = {}
    for step in walk_tree(store, store.root(manifest_id)):
        if isinstance(step, Leaf) and isinstance(step.entry, FileEntry):
            ids = [chunk.chunk_id for chunk in file_chunks(step.entry)]
            found = dict(store.read_chunks(ids))
            tree[step.path.decode()] = b"".join(bytes(found[chunk_id]) for chunk_id in ids)
    return tree


@pytest.fixture
def sqlite_databases(sqlite_template: Path) -> Callable[[Path], str]:
    def new(folder: Path) -> str:
        shutil.copyfile(sqlite_template, folder / "dstack.db")
        return f"sqlite:///{folder / 'dstack.db'}"

    return new


@pytest.fixture
def postgresql_databases(emptied_postgresql: str) -> Callable[[Path], str]:
    def new(_: Path) -> str:
        empty(emptied_postgresql)
        return emptied_postgresql

    return new


@pytest.mark.parametrize(("kind", "examples"), [("sqlite", 10), ("postgresql", 5)])
def test_nothing_that_somebody_refers_to_is_lost(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str, examples: int
) -> None:
    monkeypatch.setattr(writer, "PACK_TARGET", 4000)
    monkeypatch.setattr(writer, "SMALL_PACK", 4000)
    monkeypatch.setattr(compaction, "MANY", 2)

    class OnDatabase(GcMachine):
        new_database = staticmethod(request.getfixturevalue(f"{kind}_databases"))

    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        OnDatabase,
        settings=settings(max_examples=examples, stateful_step_count=15, deadline=None, suppress_health_check=checks),
    )
