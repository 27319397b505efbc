"""`from dstack import artifacts`, against a stub that has a store."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dstack import artifacts
from tests.contract.cli.conftest import Dstack
from tests.contract.cli.saved import RUN, Saved
from tests.contract.cli.test_artifacts import uploaded
from tests.support.stub_api import StubApi

DATA = os.urandom(5_000_000)


@pytest.fixture
def saved(stub: StubApi, tmp_path: Path, dstack: Dstack) -> Saved:
    """`dstack` sets the environment: the server is the stub."""
    return Saved(stub, tmp_path)


def test_importing_dstack_imports_nothing_else() -> None:
    program = (
        "import sys; before = {*sys.modules, '__future__'}; import dstack; new = set(sys.modules) - before; "
        "assert new == {'dstack'}, new; from dstack import artifacts; assert artifacts is dstack.artifacts is "
        "sys.modules['dstack.artifacts']; assert not {'click', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_open_reads_only_what_it_needs(saved: Saved, stub: StubApi) -> None:
    saved.add({"steps/7/model": DATA, "last": "->steps/7"})
    with artifacts.open(run=RUN, path="out/last/model") as file:
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        file.seek(-1000, os.SEEK_END)
        assert file.read() == DATA[-1000:]
        before = len(stub.named("POST …/store/locate"))
        file.seek(-500, os.SEEK_CUR)
        assert file.read(100) == DATA[-500:-400]
        assert len(stub.named("POST …/store/locate")) == before, "it was there"
        file.seek(0)
        assert file.read() == DATA
    assert file.closed


def test_open_what_is_no_file(saved: Saved) -> None:
    saved.add({"a/x": "x"})
    for path in ("out/a", "out/none", "out/.."):
        with pytest.raises(artifacts.ArtifactError):
            artifacts.open(run=RUN, path=path)
    with pytest.raises(TypeError, match="either run= or tag="):
        artifacts.open(path="out")
    with pytest.raises(TypeError, match="either run= or tag="):
        artifacts.open(run=RUN, tag="v1", path="out")
    with pytest.raises(artifacts.ArtifactError, match="odd-cow-9 has no artifacts"):
        artifacts.open(run="odd-cow-9", path="out")


def test_list(saved: Saved, stub: StubApi, repository: Path) -> None:
    first = saved.add({"a/x": "1"})
    second = saved.add({"a/x": "22"})
    assert [item["manifest_id"] for item in artifacts.list(run=RUN)] == [second]
    assert [item["manifest_id"] for item in artifacts.list(run=RUN, at=first[:12])] == [first]
    then = datetime.fromtimestamp(1.5, UTC)
    assert [item["size"] for item in artifacts.list(run=RUN, path="out/a/x", at=then)] == [1]
    assert [item["path"] for item in artifacts.list(run=RUN, path="")] == ["out/a", "out/a/x"]
    assert [item["manifest_id"] for item in artifacts.list(tag=":v1")] == [second]
    assert stub.calls[-1].query == {"tag": "v1", "repository": str(repository)}
    with pytest.raises(ValueError, match="at= takes"):
        artifacts.list(run=RUN, at="yesterday")


def test_download(saved: Saved, tmp_path: Path, repository: Path) -> None:
    saved.add({"a/x": "1", "b": "2"})
    assert artifacts.download(run=RUN) == [Path(RUN, "out")]
    assert (repository / RUN / "out/a/x").read_text() == "1"
    target = tmp_path / "to"
    assert artifacts.download(run=RUN, path=["out/b"], to=target) == [target / "out"]
    assert [path.name for path in (target / "out").iterdir()] == ["b"]
    (target / "out/b").write_text("mine")
    with pytest.raises(artifacts.ArtifactError, match="not overwritten"):
        artifacts.download(run=RUN, path="out/b", to=str(target))
    artifacts.download(run=RUN, path="out/b", to=str(target), overwrite=True)
    assert (target / "out/b").read_text() == "2"


def test_upload(saved: Saved, stub: StubApi, repository: Path) -> None:
    stub.on("POST …/uploads", uploaded)
    (repository / "data").mkdir()
    (repository / "data/x").write_text("x")
    assert artifacts.upload("data", Path("train.py"), tag="v1") == RUN
    [call] = stub.named("POST …/uploads")
    assert ([item["path"] for item in call.json["artifacts"]], call.json["tags"]) == ([".", "data"], ["v1"])
    os.mkfifo(repository / "data/pipe")
    with pytest.warns(UserWarning, match="^data/pipe: not saved, it is a named pipe"):
        artifacts.upload("data")
    with pytest.raises(TypeError):
        artifacts.upload()
