"""What would survive a power cut: in which order a run's bytes, their index and references are written, and what is
synced before the last of them is committed (F27). Real processes, each of which notes its renames, syncs and commits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.home import Gated, Home

SHIM = """\
import os

def note(*words):
    os.write(file, (" ".join(words) + "\\n").encode())

def wrap_fsync(fsync=os.fsync):
    def wrapped(fd):
        fsync(fd)
        note("synced", os.readlink(f"/proc/self/fd/{fd}"))
    return wrapped

def wrap_replace(replace=os.replace):
    def wrapped(source, target):
        replace(source, target)
        note("named", os.fspath(target))
    return wrapped

if "DSTACK_TEST_NOTES" in os.environ:
    file = os.open(os.environ["DSTACK_TEST_NOTES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.fsync, os.replace = wrap_fsync(), wrap_replace()
    from dstack.domain import faults
    faults.point = lambda name: note("at", name)
"""


@pytest.fixture
def noted(home: Home, tmp_path: Path) -> Callable[[], list[str]]:
    """Has every process of the home note what it does; gives the notes so far."""
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "sitecustomize.py").write_text(SHIM)
    before = home.environment.get("PYTHONPATH")
    home.environment["PYTHONPATH"] = f"{tmp_path / 'shim'}:{before}" if before else f"{tmp_path / 'shim'}"
    home.environment["DSTACK_TEST_NOTES"] = str(tmp_path / "notes")
    return lambda: (tmp_path / "notes").read_text().splitlines()


def test_all_is_on_the_disk_before_the_last_reference_is_committed(home: Home, noted: Callable[[], list[str]]) -> None:
    job = Gated(home, artifacts="[out]", ends="cp -r out/live out/last; head -c 3M /dev/urandom > out/more")
    workflows = (home.repo / ".dstack" / "workflows.yaml").read_text()
    gate = f"      - echo $$ >> {job.folder}/begun\n"
    home.write(workflows.replace(gate, f"      - mkdir out/live; head -c 3M /dev/urandom > out/live/file\n{gate}"))
    name = home.detached("gated")
    job.begun()
    home.wait(lambda: home.job(name, "gated")["artifacts"] or None, "a live snapshot is recorded")
    live = noted()[noted().index("at runner.started") :]
    assert packs(live), "the live snapshot has packs"
    assert not [line for line in live if line.startswith("synced") and "/packs" in line], "and nobody waited for them"
    job.go()
    home.wait_status(name, "done")
    lines = noted()
    saved = lines.index("at runner.saved")
    before, after = lines[:saved], lines[saved:]
    assert not packs(after)
    store = home.folder / "server" / "store"
    assert f"synced {store.parent}" in before, "the store's own name"
    for pack in packs(before):
        since = before[before.index(f"named {pack}") :]
        for path in (pack, pack.parent, store / "packs", store):
            assert f"synced {path}" in since, f"{path} is synced before the reference"
    # The transaction that makes the last snapshot the job's comes after, and after it nothing is written but logs.
    assert "at commit:runners.events:before" in after


def test_packs_then_their_index_then_the_objects_that_name_them(home: Home, noted: Callable[[], list[str]]) -> None:
    """Each pack has its name before the catalog hears of it, and data is in the catalog before an object is stored."""
    job = Gated(home, artifacts="[out]", ends="head -c 40M /dev/urandom > out/large")
    name = home.detached("gated")
    job.begun()
    started = len(noted())
    job.go()
    home.wait_status(name, "done")
    lines = [line for line in noted()[started:] if "/packs/" in line or "commit:store.add" in line]
    order = [line.rpartition("/")[2] if line.startswith("named") else line for line in lines if "synced" not in line]
    assert len(packs(lines)) > 2
    committed = 0
    named: list[str] = []
    for line in order:
        if line == "at commit:store.add:before":
            committed += 1
            assert len(named) >= committed, "the catalog names a pack that is not in the store"
        elif not line.startswith("at"):
            named.append(line)
    # The last pack has the objects: all before it was committed when it appeared.
    last = order.index(named[-1])
    assert order[:last].count("at commit:store.add:after") == len(named) - 1


def packs(lines: list[str]) -> list[Path]:
    """Packs that got their names in these lines."""
    return [Path(line.removeprefix("named ")) for line in lines if line.startswith("named") and "/packs/" in line]
