"""Moving the store to another disk: jobs go on, nothing is lost, and killed anywhere it leaves the old place or the new
one and goes on with the same command (F27)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack.cli.checks import check_store
from dstack.domain import faults
from dstack.embedded import move as moving
from dstack.embedded.move import MoveRefused, move, plan
from dstack.embedded.store_place import Record, StoreAway, open_store, read_record, store_folder, write_record
from dstack.snapshots.blobs.local import LocalBlobStore
from dstack.snapshots.capture import save
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.restore import restore
from dstack.snapshots.store import SnapshotStore
from tests.faults.disks import Disks, fill
from tests.faults.home import Gated, Home
from tests.support.packs import rebuild
from tests.support.trees import described

POINTS = [
    "move-store.begun", "move-store.pack:before", "move-store.pack:after:3", "move-store.copied",
    "move-store.switch:before", "move-store.switch:after", "move-store.remove",
]  # fmt: skip
MOVE = """
import sys
from pathlib import Path
from dstack.embedded.move import move, plan
move(plan(Path(sys.argv[2]), sys.argv[1]))
"""


class Stored:
    """A home with a store and no server, and the snapshots in it."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.old, self.new = self.home / "server" / "store", root / "new"
        (self.home / "server").mkdir(parents=True)
        assert open_store(self.home, lambda: False) == self.old
        self._root = root
        self._saved: list[bytes] = []
        for number in range(3):
            folder = root / "in" / str(number)
            (folder / "sub").mkdir(parents=True)
            (folder / "sub" / "file").write_bytes(os.urandom(300_000))
            self.save(folder)

    def save(self, folder: Path) -> None:
        store = SnapshotStore(LocalBlobStore(store_folder(self.home)), MemoryCatalog())
        self._saved.append(save(folder, store).manifest_id)

    def move(self, target: Path | None = None, **environment: str) -> int:
        """In a process of its own; how that ended."""
        command = [sys.executable, "-c", MOVE, str(self.home), str(target or self.new)]
        return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode

    def assert_readable(self) -> None:
        """Everything comes back from where the next server will look."""
        blobs, catalog = LocalBlobStore(open_store(self.home, lambda: True)), MemoryCatalog()
        rebuild(blobs, catalog)
        for number, manifest_id in enumerate(self._saved):
            target = self._root / "fetched" / str(number)
            restore(SnapshotStore(blobs, catalog), manifest_id, target)
            assert described(target) == described(self._root / "in" / str(number))
        shutil.rmtree(self._root / "fetched")


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


@pytest.fixture
def disks() -> Iterator[Disks]:
    """To be named before `home`."""
    made = Disks()
    yield made
    made.close()


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_step(stored: Stored, point: str) -> None:
    assert stored.move(DSTACK_FAULT=point) == -signal.SIGKILL
    switched = POINTS.index(point) >= POINTS.index("move-store.switch:after")
    assert store_folder(stored.home) == (stored.new if switched else stored.old)
    stored.assert_readable()
    assert stored.move() == 0
    assert store_folder(stored.home) == stored.new
    assert not stored.old.exists()
    stored.assert_readable()
    assert [path.name for path in stored.new.rglob(".*")] == [], "nothing half is left"


def test_every_step_has_its_point(stored: Stored, tmp_path: Path) -> None:
    assert stored.move(DSTACK_FAULT_LOG=str(tmp_path / "log")) == 0
    reached = set((tmp_path / "log").read_text().split())
    assert reached == {name.removesuffix(":3") for name in POINTS} == {n for n in faults.POINTS if "move-store" in n}


def test_kept_and_moved_back(stored: Stored, tmp_path: Path) -> None:
    assert move(plan(stored.new, str(stored.home)), keep=True).left == ()
    assert names(stored.old) == names(stored.new)
    (tmp_path / "in" / "3").mkdir()
    (tmp_path / "in" / "3" / "more").write_bytes(os.urandom(100_000))
    stored.save(tmp_path / "in" / "3")
    gone = next(iter(names(stored.old)))
    packs = {path.name: path for path in files(stored.old)}
    (stored.old / "packs" / "00").mkdir(exist_ok=True)
    (stored.old / "packs" / "00" / ("0" * 64)).write_bytes(b"collected at the new place")
    found = plan(stored.old, str(stored.home))
    assert found.missing == sum(path.stat().st_size for path in files(stored.new) if path.name not in packs) > 0
    moved = move(found)
    assert (moved.packs, moved.copied) == (len(names(stored.old)), found.missing)
    assert gone in names(stored.old)
    assert "0" * 64 not in names(stored.old)
    assert not stored.new.exists()
    stored.assert_readable()


def test_the_same_place_once_more(stored: Stored) -> None:
    move(plan(stored.new, str(stored.home)))
    found = plan(stored.new, str(stored.home))
    assert (found.is_there, move(found).packs) == (True, 0)
    stored.assert_readable()


def test_what_is_not_the_stores_stays(stored: Stored) -> None:
    (stored.old / "notes").write_text("mine")
    stored.new.mkdir()
    stored.new.chmod(0o755)
    (stored.new / ".store.json.1").write_text("{")  # of a move that was killed right at the start
    assert move(plan(stored.new, str(stored.home))).left == (str(stored.old),)
    assert os.listdir(stored.old) == ["notes"]
    assert sorted(os.listdir(stored.new)) == ["packs", "store.json"]
    assert (stored.new / "packs").stat().st_mode & 0o077 == 0, "nobody else reads what the store holds"


def test_places_that_it_does_not_go_to(disks: Disks, stored: Stored, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(stored.old)
    small = disks.small(tmp_path / "small", 8)
    read_only = disks.read_only(tmp_path / "read-only")
    other = Stored(tmp_path / "other")
    for target, said in {
        stored.old / "within": "lie within each other",
        stored.home / "server": "lie within each other",
        tmp_path / "link" / "within": "lie within each other",
        tmp_path / "full": "is not empty",
        other.old: "is not empty",
        tmp_path / "file": "cannot be written: ",
        tmp_path / "nowhere" / "store": f"{tmp_path / 'nowhere'} is not there",
        Path("/proc/store"): "no folder can be made in /proc",
        small: "is too small: 65 MiB are needed there, and 8 MiB are free",
        small / "store": "is too small: 65 MiB are needed there, and 8 MiB are free",
        read_only: "cannot be written: Read-only file system",
    }.items():
        with pytest.raises(MoveRefused) as caught:
            plan(target, str(stored.home))
        assert said in str(caught.value)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
    assert list(small.iterdir()) == [], "what was made for a look"
    stored.assert_readable()


def test_a_disk_that_fills_on_the_way(disks: Disks, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is where it was, and the same command goes on once there is room."""
    monkeypatch.setattr(moving, "SPARE", 0)
    new = disks.small(stored.new, 4)
    (new / "lost+found").mkdir()
    found = plan(new, str(stored.home))
    filler = fill(new)
    with pytest.raises(MoveRefused, match=f"cannot move the store to {new}: No space left on device"):
        move(found)
    stored.assert_readable()
    filler.unlink()
    move(plan(new, str(stored.home)))
    assert store_folder(stored.home) == new
    stored.assert_readable()


def test_a_disk_that_gives_back_other_bytes(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def damaged(fd: int) -> None:
        real(fd)
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path.name.startswith(".tmp-move-"):
            path.write_bytes(b"?" + path.read_bytes()[1:])

    monkeypatch.setattr(os, "fsync", damaged)
    with pytest.raises(MoveRefused, match="its disk is not sound"):
        move(plan(stored.new, str(stored.home)))
    assert store_folder(stored.home) == stored.old
    stored.assert_readable()


def test_a_store_that_is_not_there(stored: Stored, tmp_path: Path) -> None:
    """No empty one is made in its place, at home or elsewhere; another's is not taken for it."""
    stored.old.rename(tmp_path / "away")
    for is_used in (True, False):
        with pytest.raises(StoreAway, match=f"the store is not at {stored.old}: its disk is not mounted"):
            open_store(stored.home, lambda is_used=is_used: is_used)
    with pytest.raises(StoreAway, match="the store is not at"):
        plan(stored.new, str(stored.home))
    assert doctor(stored) == ("problem", f"the store is not at {stored.old}")
    assert not stored.old.exists()
    Stored(tmp_path / "other").old.rename(stored.old)
    assert doctor(stored) == ("problem", f"{stored.old} holds the store of another home")
    with pytest.raises(StoreAway, match="holds the store of another home"):
        open_store(stored.home, lambda: True)
    shutil.rmtree(stored.old)
    (tmp_path / "away").rename(stored.old)
    stored.assert_readable()
    assert doctor(stored)[1].endswith(f" free at {stored.old}")
    shutil.rmtree(stored.old)
    (stored.old / "packs").mkdir(parents=True)  # gone for good, as the hint says
    assert open_store(stored.home, lambda: True) == stored.old


def test_homes_of_versions_that_moved_no_stores(stored: Stored) -> None:
    (stored.home / "server" / "store.json").unlink()
    (stored.old / "store.json").unlink()
    stored.assert_readable()
    assert isinstance(read_record(stored.home), Record)
    (stored.home / "server" / "store.json").write_text("{")
    with pytest.raises(StoreAway, match="does not say where the store is"):
        store_folder(stored.home)


def test_a_home_that_was_moved_keeps_its_store(stored: Stored, tmp_path: Path) -> None:
    stored.home.rename(tmp_path / "elsewhere")
    stored.home = tmp_path / "elsewhere"
    stored.assert_readable()
    write_record(stored.home, Record("another"))
    with pytest.raises(StoreAway):
        open_store(stored.home, lambda: True)


def test_it_goes_on_while_a_job_runs_and_saves(home: Home) -> None:
    """The job, its snapshots and whoever follows it notice nothing; later servers find the new place."""
    job = Gated(home, artifacts="[out]", ends="cp out/first out/second; head -c 3M /dev/urandom > out/third")
    workflows = (home.repo / ".dstack" / "workflows.yaml").read_text()
    gate = f"      - echo $$ >> {job.folder}/begun\n"
    home.write(workflows.replace(gate, f"      - head -c 3M /dev/urandom > out/first\n{gate}"))
    following = home.start("run", "gated")
    job.begun()
    [run] = home.runs()
    home.wait(lambda: home.job(run["name"], "gated")["artifacts"] or None, "a live snapshot")
    old, new = home.folder / "server" / "store", home.root / "new" / "store"
    new.parent.mkdir()
    before = home.server()
    [moved] = json.loads(home.types("server", "move-store", str(new), "--json").stdout)
    assert (moved["from"], moved["to"], moved["kept"], moved["left"]) == (str(old), str(new), False, [])
    assert moved["packs"] == len(files(new)) > 0
    assert moved["copied"] == moved["size"] == sum(path.stat().st_size for path in files(new))
    assert home.server() not in (0, before)
    assert not old.exists()
    job.go()
    home.ends(following)
    job.assert_ran_once()
    assert not old.exists(), "the runner did not write to the old place"
    home.types("server", "stop")
    home.types("artifacts", "download", run["name"], "-o", str(home.root / "fetched"))
    fetched = home.root / "fetched" / "out"
    assert (fetched / "first").read_bytes() == (fetched / "second").read_bytes()
    assert (fetched / "third").stat().st_size == 3 << 20
    assert f"store     {new}\n" in home.types("server", "status").stdout
    assert f"{new}: artifacts and code" in home.types("du").stdout


def test_a_disk_that_is_not_mounted(disks: Disks, home: Home) -> None:
    """Commands name it, and make nothing in its place."""
    home.write("workflows: [{name: small, provider: bash, commands: [echo said]}]")
    home.types("run", "small")
    disk = disks.small(home.root / "disk", 100)
    done = home.types("server", "move-store", str(disk))
    assert f"the store is at {disk} now: " in done.stdout
    home.types("server", "stop")
    disks.unmount(disk)
    for command in (["runs"], ["run", "small"]):
        done = home.types(*command, code=2)
        assert f"the store is not at {disk}: its disk is not mounted" in done.stderr
    assert list(disk.iterdir()) == []


def doctor(stored: Stored) -> tuple[str, str]:
    """What `dstack doctor` says of the store."""
    [check] = check_store(str(stored.home))
    return check.status, check.text


def files(store: Path) -> list[Path]:
    return [path for path in (store / "packs").rglob("*") if path.is_file()]


def names(store: Path) -> set[str]:
    return {path.name for path in files(store)}
