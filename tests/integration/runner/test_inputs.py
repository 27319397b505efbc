"""Large inputs out of the cache: as a restore would put them there, each way, and nobody's but the job's own to change.

Ways are tried on the file systems that allow them: an overlay on what the tests run on, shared blocks on btrfs and xfs.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dstack.runner import overlay
from dstack.runner.folders import clear_work, set_aside
from dstack.runner.inputs import look
from dstack.runner.settings import Settings
from dstack.snapshots.capture import save
from dstack.snapshots.errors import RestoreFailed
from dstack.snapshots.live import LiveCapture, Snapshots
from dstack.snapshots.restore import Restored, restore
from dstack.snapshots.statcache import FileCache
from dstack.snapshots.store import SnapshotStore
from tests.support.inputs import Bench
from tests.support.loop_disks import NoDisk, loop_disk
from tests.support.stores import RecordingStore, later
from tests.support.trees import described

MEGABYTES = 8
WAYS = ("overlay", "copy", "direct", "reflink btrfs", "reflink xfs", "overlay btrfs")


class Disks:
    """One of each kind, mounted when the first test needs it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._mounted: dict[str, Path] = {}
        self._homes = 0

    def home(self, kind: str) -> Path:
        """A new folder on the disk; "": on that of the tests."""
        if kind not in self._mounted:
            self._mounted[kind] = self._stack.enter_context(loop_disk(kind, self._folder)) if kind else self._folder
        self._homes += 1
        return self._mounted[kind] / f"home-{self._homes}"


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Generator[Disks]:
    with ExitStack() as stack:
        yield Disks(tmp_path_factory.mktemp("disks"), stack)


@pytest.fixture
def bench(request: pytest.FixtureRequest, disks: Disks) -> Generator[Bench]:
    way, _, disk = str(getattr(request, "param", "overlay")).partition(" ")
    try:
        home = disks.home(disk)
    except NoDisk as why:
        pytest.skip(str(why))
    bench = Bench(home, RecordingStore(), way)
    if way == "overlay" and (why := look(bench.settings).overlay):
        pytest.skip(why)
    yield bench
    bench.close()
    shutil.rmtree(home)


every_way = pytest.mark.parametrize("bench", WAYS, indirect=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder as a job may leave it."""
    folder = tmp_path / "made"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "empty").mkdir(mode=0o750)
    (folder / "big").write_bytes(os.urandom(MEGABYTES << 20))
    (folder / "none").touch()
    (folder / "deep" / "er" / "script").write_text("echo hello\n")
    (folder / "deep" / "er" / "script").chmod(0o755)
    (folder / "link").symlink_to("deep/er/script")
    os.link(folder / "none", folder / "deep" / "also none")
    with open(folder / "sparse", "wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"in the middle")
    for path in (*folder.rglob("*"), folder):
        os.utime(path, ns=(10**18 + 1, 10**18 + 1), follow_symlinks=False)
    return folder


@every_way
def test_an_input_is_what_was_saved(bench: Bench, data: Path) -> None:
    manifest_id = bench.save(data)
    for _ in range(2):
        assignment, work = bench.begin(("data", manifest_id))
        assert described(work / "data") == described(data)
        assert (work / "data" / "sparse").stat().st_blocks * 512 < 8 << 20
        bench.end(assignment)
        assert not bench.folder(assignment).exists()


@every_way
def test_what_a_job_does_to_its_input_is_its_own(bench: Bench, data: Path) -> None:
    """It writes into files, grows, cuts, removes and renames them, and changes modes and times."""
    manifest_id = bench.save(data)
    _, first = bench.begin(("data", manifest_id))
    _, second = bench.begin(("data", manifest_id))
    with open(first / "data" / "big", "r+b") as file:
        file.write(b"another beginning")
    with open(first / "data" / "none", "ab") as file:
        file.write(b"not empty any more")
    os.truncate(first / "data" / "sparse", 10)
    (first / "data" / "deep" / "er" / "script").unlink()
    (first / "data" / "deep").rename(first / "data" / "elsewhere")
    (first / "data" / "empty").chmod(0o700)
    os.utime(first / "data" / "big", (1, 1))
    assert described(second / "data") == described(data)
    _, third = bench.begin(("data", manifest_id))
    assert described(third / "data") == described(data)
    assert (first / "data" / "big").read_bytes().startswith(b"another beginning")
    assert sorted(os.listdir(first / "data")) == ["big", "elsewhere", "empty", "link", "none", "sparse"]


@every_way
def test_a_job_moves_and_removes_its_input_as_a_whole(bench: Bench, data: Path) -> None:
    manifest_id = bench.save(data)
    _, work = bench.begin(("data", manifest_id), ("more/data", manifest_id))
    subprocess.run("mv data data2 && rm -rf more && mkdir more data && ls data more", shell=True, check=True, cwd=work)
    assert described(work / "data2") == described(data)
    assert sorted(os.listdir(work)) == ["data", "data2", "more"]
    assert os.listdir(work / "data") == os.listdir(work / "more") == []
    _, other = bench.begin(("data", manifest_id))
    assert described(other / "data") == described(data)


@every_way
def test_an_input_takes_the_place_of_what_the_code_has_there(bench: Bench, data: Path, tmp_path: Path) -> None:
    """As where all is restored one over the other: the input's files win, others stay."""
    code = tmp_path / "code"
    (code / "data" / "deep").mkdir(parents=True)
    for name in ("train.py", "data/.gitkeep", "data/none", "data/link", "data/deep/own"):
        (code / name).write_text(f"the code's {name}")
    (code / "alias").symlink_to("data")
    small, large = bench.save(code), bench.save(data)
    expected = tmp_path / "expected"
    restore(bench.store, small, expected)
    restore(bench.store, large, expected / "data")
    for code_is_large in (False, True):
        if not code_is_large:
            bench.shop.materialiser.unpack(small, tmp_path / "unpacked")  # known to be small from here on
        else:
            bench = Bench(bench.settings.home, bench.store, bench.settings.inputs_way)
        assignment, work = bench.begin(("alias", large), code=small)
        assert without_times(work) == without_times(expected)
        assert described(work)[b"data/deep/er/script"].mtime == described(data)[b"deep/er/script"].mtime
        bench.end(assignment)


def without_times(folder: Path) -> dict[bytes, object]:
    """A hard link that was replaced is one no more: those of the input only."""
    return {path: found._replace(mtime=0, links=()) for path, found in described(folder).items()}


@every_way
def test_an_attempt_begins_with_what_the_one_before_made_of_its_input(bench: Bench, data: Path) -> None:
    """The artifact folder is an input, too: what was saved of it comes last, and the input stays whole for others."""
    manifest_id, expected = bench.save(data), described(data)
    (data / "big").write_bytes(b"a checkpoint in its place")
    (data / "deep" / "new").write_text("another")
    _, work = bench.begin(("data", manifest_id), artifacts=["data"], earlier={"data": bench.save(data)})
    assert without_times(work / "data") == without_times(data)
    _, other = bench.begin(("data", manifest_id))
    assert described(other / "data") == expected


@every_way
def test_what_is_in_the_way_is_told(bench: Bench, data: Path, tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "data").mkdir(parents=True)
    (code / "data" / "deep").write_text("a file where the input has a folder")
    small, large = bench.save(code), bench.save(data)
    bench.shop.materialiser.unpack(small, tmp_path / "unpacked")
    with pytest.raises(RestoreFailed, match="deep is in the way"):
        bench.begin(("data", large), code=small)


@pytest.mark.parametrize("bench", ["overlay", "reflink btrfs", "reflink xfs", "overlay btrfs"], indirect=True)
def test_the_second_job_copies_no_bytes(bench: Bench, data: Path) -> None:
    manifest_id = bench.save(data)
    one, _ = bench.begin(("data", manifest_id))
    reads = bench.store.verbs().count("get")
    free = free_after_sync(bench.settings.home)
    other, work = bench.begin(("data", manifest_id))
    assert free - free_after_sync(bench.settings.home) < MEGABYTES << 19
    assert (work / "data" / "big").read_bytes() == (data / "big").read_bytes()
    assert bench.store.verbs().count("get") == reads
    bench.end(one)
    bench.end(other)


def free_after_sync(folder: Path) -> int:
    os.sync()
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


@pytest.mark.parametrize("bench", ["overlay", "copy"], indirect=True)
def test_two_that_want_the_same_at_once_make_it_once(bench: Bench, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest_id = bench.save(data)
    assignments = [bench.assignment(("data", manifest_id)) for _ in range(4)]
    filled: list[Path] = []

    def counted(store: SnapshotStore, manifest_id: bytes, target: Path, *, stopped: Callable[[], bool]) -> Restored:
        filled.append(target)
        return restore(store, manifest_id, target, stopped=stopped)

    monkeypatch.setattr("dstack.runner.input_cache.restore", counted)

    async def all_at_once() -> list[Path]:
        return await asyncio.gather(*map(bench.lay_out, assignments))

    works = asyncio.run(all_at_once())
    assert all(described(work / "data") == described(data) for work in works)
    assert len(filled) == len(bench.entries()) == 1


def test_an_input_that_is_given_twice_is_there_once(bench: Bench, data: Path) -> None:
    manifest_id = bench.save(data)
    _, work = bench.begin(("data", manifest_id), ("data", manifest_id))
    assert described(work / "data") == described(data)
    assert len(bench.entries()) == 1


def test_more_inputs_than_an_overlay_takes(bench: Bench, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack.runner.overlay.MOST_LAYERS", 2)
    manifest_id = bench.save(data)
    places = ("a", "b", "c", "d")
    assignment, work = bench.begin(*((place, manifest_id) for place in places))
    assert all(described(work / place) == described(data) for place in places)
    assert overlay.is_mounted(bench.folder(assignment))
    assert len(bench.entries()) == 2


def test_files_at_two_places_are_kept_once(bench: Bench, data: Path) -> None:
    manifest_id = bench.save(data)
    _, work = bench.begin(("data", manifest_id), ("a/b/data", manifest_id))
    assert described(work / "data") == described(work / "a/b/data") == described(data)
    one, other = bench.entries()
    assert os.path.samefile(next(one.glob("tree/**/big")), next(other.glob("tree/**/big")))
    with open(work / "data" / "big", "ab") as file:
        file.write(b"more")
    assert described(work / "a/b/data") == described(data)


def test_a_job_that_is_cut_off_while_it_fills_the_cache_leaves_nothing(bench: Bench, data: Path) -> None:
    """… and the next one, which waited for it, fills it."""
    manifest_id = bench.save(data)
    first, second = (bench.assignment(("data", manifest_id)) for _ in range(2))
    reached, go_on = threading.Event(), threading.Event()
    get = bench.store.memory.get

    def slow(key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        reached.set()
        assert go_on.wait(30)
        return get(key, offset=offset, length=length)

    bench.shop.materialiser.measure(manifest_id)
    bench.store.memory.get = slow

    async def course() -> Path:
        cut = asyncio.create_task(bench.lay_out(first))
        assert await asyncio.to_thread(reached.wait, 30)
        waiting = asyncio.create_task(bench.lay_out(second))
        await asyncio.sleep(0)
        cut.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await cut
        return await waiting

    work = asyncio.run(course())
    assert described(work / "data") == described(data)
    bench.end(first)
    assert len(bench.entries()) == 1
    assert [path.name for path in bench.cache.root.iterdir()] == [bench.entries()[0].name]


@pytest.mark.parametrize("way", ["reflink", "overlay"])
def test_what_the_machine_does_not_allow_is_restored(
    tmp_path: Path, data: Path, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was possible when it was tried, and is not any more."""
    monkeypatch.setattr("dstack.runner.cloning.obstacle", lambda *_: "")
    monkeypatch.setattr("dstack.runner.overlay.obstacle", lambda *_: "")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("dstack.runner.overlay.mount", refuse)
    monkeypatch.setattr("dstack.runner.cloning.share_blocks", refuse)
    bench = Bench(tmp_path / "home", RecordingStore(), way)
    assignment, work = bench.begin(("data", bench.save(data)))
    assert described(work / "data") == described(data)
    assert not (bench.folder(assignment) / "layers").exists()
    assert "Operation not permitted" in caplog.text


def test_without_the_right_to_mount_no_overlay_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert look(Settings(home=tmp_path)).overlay == "only root may mount an overlay"


@pytest.mark.parametrize("way", ["copy_bytes", "None"])
def test_folders_that_nobody_may_write_to_come_along(tmp_path: Path, data: Path, way: str) -> None:
    """… put by one who is bound by that, also where they are there already, and removed by the same."""
    target, other = tmp_path / "attempt", tmp_path / "another"
    for folder, mode in (("deep/er", 0o555), ("deep", 0o500), ("empty", 0o555)):
        (data / folder).chmod(mode)
    (target / "deep" / "er").mkdir(parents=True)
    (target / "deep" / "er" / "script").write_text("in the way")
    (target / "deep" / "er").chmod(0o000)
    (target / "deep").chmod(0o500)
    program = (
        "import sys; from pathlib import Path; from dstack.runner.cloning import put_tree, copy_bytes\n"
        "from dstack.runner.folders import sweep\n"
        "source, target, other = map(Path, sys.argv[1:])\n"
        f"put_tree(source, target, {way}); put_tree(source, other, {way}); sweep(other)"
    )
    bound = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    subprocess.run([*bound, sys.executable, "-c", program, data, target, other], check=True)
    assert described(target) == described(data)
    assert not other.exists()


@pytest.mark.parametrize("bench", ["copy"], indirect=True)
def test_an_entry_that_lacks_files_is_not_used(bench: Bench, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest_id = bench.save(data)
    one, _ = bench.begin(("data", manifest_id))
    bench.end(one)
    next(bench.entries()[0].glob("tree/**/script")).unlink()
    _, work = bench.begin(("data", manifest_id))
    assert described(work / "data") == described(data)
    assert "remove that entry" in caplog.text


# --- overlays: what becomes of them ------------------------------------------------------------------------------


def test_an_overlay_goes_with_its_attempt_and_leaves_the_cache_alone(bench: Bench, data: Path) -> None:
    """Also while something still works in it."""
    assignment, work = bench.begin(("data", bench.save(data)))
    [entry] = bench.entries()
    with subprocess.Popen(["sleep", "60"], cwd=work / "data") as straggler:
        bench.end(assignment)
        straggler.kill()
    assert not bench.folder(assignment).exists()
    assert described(entry / "tree" / "data") == described(data)


def test_a_half_begun_attempt_is_begun_again(bench: Bench, data: Path) -> None:
    """What an agent does that finds an attempt whose process was never started."""
    assignment, _ = bench.begin(("data", bench.save(data)))
    folder = bench.folder(assignment)
    clear_work(folder)
    assert list(folder.iterdir()) == []
    again = Bench(bench.settings.home, bench.store, "overlay")
    folder.rmdir()
    work = asyncio.run(again.lay_out(assignment))
    assert described(work / "data") == described(data)


def test_after_a_boot_the_overlay_is_mounted_again(bench: Bench, data: Path) -> None:
    """With what the job wrote; also where the entry was not on the disk and is made anew."""
    assignment, work = bench.begin(("data", bench.save(data)))
    (work / "data" / "mine").write_text("written by the job")
    (work / "data" / "big").unlink()
    expected = described(work / "data")
    for lost in (False, True):
        overlay.unmount(bench.folder(assignment))
        assert list(work.iterdir()) == []
        if lost:
            shutil.rmtree(bench.entries()[0])
        again = Bench(bench.settings.home, bench.store, "overlay")
        again.inputs.hold(assignment.attempt_id, bench.folder(assignment))
        assert asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, bench.folder(assignment), 0)) == ""
        assert described(work / "data") == expected


def test_a_living_overlay_is_left_as_it_is(bench: Bench, data: Path) -> None:
    assignment, work = bench.begin(("data", bench.save(data)))
    device = work.stat().st_dev
    again = Bench(bench.settings.home, RecordingStore(), "overlay")
    assert asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, bench.folder(assignment), 0)) == ""
    assert work.stat().st_dev == device


def test_the_overlay_of_a_job_in_another_mount_namespace_is_brought_here(bench: Bench, data: Path) -> None:
    """The agent before was given one by systemd; its job went on in it. Both then see the same, at once."""
    assignment, work = bench.begin(("data", bench.save(data)))
    folder = bench.folder(assignment)
    held = subprocess.Popen(["unshare", "--mount", "sh", "-c", "echo; read go; rm data/big; echo; read end"], cwd=work,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    with held:
        assert held.stdout is not None
        assert held.stdin is not None
        held.stdout.readline()
        overlay.unmount(folder)
        again = Bench(bench.settings.home, bench.store, "overlay")
        assert asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, folder, held.pid)) == ""
        assert described(work / "data") == described(data)
        (work / "new").write_text("written here")
        held.stdin.write(b"\n")
        held.stdin.flush()
        held.stdout.readline()
        assert not (work / "data" / "big").exists()
        assert Path(f"/proc/{held.pid}/root{work}/new").read_text() == "written here"
        held.stdin.write(b"\n")


def test_where_an_input_is_lost_what_the_job_wrote_is_left(bench: Bench, data: Path) -> None:
    assignment, work = bench.begin(("data", bench.save(data)))
    (work / "out").mkdir()
    (work / "out" / "mine").write_text("written by the job")
    overlay.unmount(bench.folder(assignment))
    shutil.rmtree(bench.entries()[0])
    again = Bench(bench.settings.home, RecordingStore(), "overlay")
    said = asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, bench.folder(assignment), 0))
    assert "only what it wrote is left" in said
    assert (work / "out" / "mine").read_text() == "written by the job"


@pytest.mark.parametrize("point", ["input-uncovered:before", "input-uncovered:after"])
@pytest.mark.parametrize("then", ["resumed", "set aside"])
def test_an_agent_killed_while_it_uncovers_loses_nothing(bench: Bench, data: Path, point: str, then: str) -> None:
    """The next one does the rest, or lays the working copy over its inputs again."""
    assignment, work = bench.begin(("data", bench.save(data)))
    folder = bench.folder(assignment)
    (work / "mine").write_text("written by the job")
    program = (
        "import sys; from pathlib import Path; from dstack.runner.overlay import uncover; uncover(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, folder], env={**os.environ, "DSTACK_FAULT": point}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert (folder / "layers").exists()
    again = Bench(bench.settings.home, bench.store, "overlay")
    if then == "set aside":
        work = bench.settings.folder / "orphaned" / assignment.attempt_id.hex / "work"
        set_aside(folder, work.parent)
        assert [path.name for path in work.iterdir()] == ["mine"]
    else:
        said = asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, folder, 0))
        uncovered = point.endswith("after")
        assert ("only what it wrote is left" in said) == uncovered
        assert sorted(path.name for path in work.iterdir()) == (["mine"] if uncovered else ["data", "mine"])
        assert (folder / "layers").exists() != uncovered
    assert (work / "mine").read_text() == "written by the job"


@pytest.mark.parametrize("left", [b"", None])
def test_a_power_cut_may_take_what_says_which_inputs_lay_below(bench: Bench, data: Path, left: bytes | None) -> None:
    assignment, work = bench.begin(("data", bench.save(data)))
    folder = bench.folder(assignment)
    (work / "mine").write_text("written by the job")
    overlay.unmount(folder)
    if left is None:
        (folder / "layers" / "below").unlink()
    else:
        (folder / "layers" / "below").write_bytes(left)
    again = Bench(bench.settings.home, bench.store, "overlay")
    again.inputs.hold(assignment.attempt_id, folder)
    said = asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, folder, 0))
    assert said.startswith("its inputs are gone")
    assert [path.name for path in work.iterdir()] == ["mine"]


def test_what_lies_below_is_on_the_disk_before_it_has_its_name(
    bench: Bench, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, int]] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append((os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size))
    )
    assignment, _ = bench.begin(("data", bench.save(data)))
    below = bench.folder(assignment) / "layers" / "below"
    assert (f"{below}.part", below.stat().st_size) in synced


def test_no_second_overlay_is_mounted_while_the_job_works_in_the_first(bench: Bench, data: Path) -> None:
    """Its namespace cannot be entered: nothing is mounted until its process has ended, and then all is there."""
    assignment, work = bench.begin(("data", bench.save(data)))
    folder = bench.folder(assignment)
    (work / "mine").write_text("written by the job")
    expected = described(work)
    overlay.unmount(folder)
    again = Bench(bench.settings.home, bench.store, "overlay")
    with subprocess.Popen(["sleep", "60"]) as job:  # sees no working copy either: as hard to reach as a kernel forbids
        with pytest.raises(
            OSError, match=f"the working copy of process {job.pid} cannot be reached: nothing is mounted"
        ):
            asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, folder, job.pid))
        job.kill()
    assert not overlay.is_mounted(folder)
    assert overlay.has_upper(folder)
    assert asyncio.run(again.inputs.lay_over_again(assignment.attempt_id, folder, 0)) == ""
    assert described(work) == expected


def test_what_is_set_aside_is_what_the_job_wrote(bench: Bench, data: Path) -> None:
    assignment, work = bench.begin(("data", bench.save(data)))
    (work / "mine").write_text("written by the job")
    aside = bench.settings.folder / "orphaned" / assignment.attempt_id.hex
    set_aside(bench.folder(assignment), aside)
    assert (aside / "work" / "mine").read_text() == "written by the job"
    assert not overlay.is_mounted(aside)


# --- overlays: saving what lies on one -----------------------------------------------------------------------------


def test_an_artifact_that_is_also_an_input_is_captured_while_it_changes(bench: Bench, data: Path) -> None:
    """The kernel tells of changes on an overlay; a file that is written to for the first time, and a renamed folder,
    are found; and what did not change is not read twice."""
    _, work = bench.begin(("data", bench.save(data)), artifacts=["data"])
    taken: list[bytes] = []
    told = threading.Condition()

    def on_snapshot(found: Snapshots) -> None:
        with told:
            taken.append(found["data"].manifest_id)
            told.notify_all()

    def change(what: Callable[[], object]) -> None:
        with told:
            before = len(taken)
            what()
            assert told.wait_for(lambda: len(taken) > before, 30)

    capture = LiveCapture(work, ["data"], bench.store, on_snapshot, quiet=0.05, max_interval=0.5, rescan=600)
    capture.start()
    with told:
        while not taken:  # until the kernel has been asked to tell of changes
            (work / "data" / "first").write_text(os.urandom(8).hex())
            told.wait(0.3)
    change(lambda: (work / "data" / "deep" / "er" / "script").write_text("echo changed\n"))
    change(lambda: (work / "data" / "deep").rename(work / "data" / "renamed"))
    change(lambda: (work / "data" / "renamed" / "new").write_text("in a folder that was moved"))
    change((work / "data" / "big").unlink)
    saved = capture.final()["data"]
    capture.join()
    restored = data.parent / "restored"
    restore(bench.store, saved.manifest_id, restored)
    assert described(restored) == described(work / "data")
    assert (restored / "renamed" / "new").exists()


@pytest.mark.parametrize("bench", ["overlay", "overlay btrfs", "overlay xfs"], indirect=True)
def test_what_did_not_change_on_an_overlay_is_not_read_again(bench: Bench, data: Path) -> None:
    """Device and inode of a file stay the same, also when it is written to for the first time."""
    _, work = bench.begin(("data", bench.save(data)))
    cache = FileCache()

    def read_bytes() -> int:
        read: list[int] = []
        save(work / "data", bench.store, cache=cache, clock=later(), watch=read.append)
        return sum(read)

    assert read_bytes() >= MEGABYTES << 20
    assert read_bytes() == 0
    with open(work / "data" / "deep" / "er" / "script", "a") as file:
        file.write("echo more\n")
    assert 0 < read_bytes() < 1000
