"""A runner and a large input for it.

Ways are tried on the file systems that allow them: an overlay on what the tests run on, shared blocks on btrfs and xfs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dstack.runner.inputs import look
from tests.support.inputs import Bench
from tests.support.loop_disks import Disks, NoDisk
from tests.support.stores import RecordingStore


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


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder as a job may leave it."""
    folder = tmp_path / "made"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "empty").mkdir(mode=0o750)
    (folder / "big").write_bytes(os.urandom(8 << 20))
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
