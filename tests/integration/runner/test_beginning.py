"""What an earlier attempt had come to, put back before a job starts: on code, on inputs, and where it cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dstack.protocol.messages import Assignment, EarlierSnapshot
from dstack.runner.environments import SetupError
from tests.support.inputs import Bench
from tests.support.stores import RecordingStore


def tree(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore()


@pytest.fixture(params=["overlay", "copy", "direct"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, store: RecordingStore) -> Generator[Bench]:
    bench = Bench(tmp_path / "home", store, request.param)
    yield bench
    bench.close()


def beginning(
    bench: Bench, assignment: Assignment, path: str, manifest_id: bytes, attempt: int = 0, **more: Any
) -> Assignment:
    earlier = EarlierSnapshot(
        path=path,
        manifest_id=manifest_id,
        run_name="old-cow-1",
        attempt=attempt,
        files=2,
        size=3,
        taken_at=1656676800_000_000,
        **more,
    )
    return msgspec.structs.replace(assignment, resumed=(*assignment.resumed, earlier))


def test_it_stands_where_the_job_looks_for_it(bench: Bench, tmp_path: Path) -> None:
    """Over what the code brings, whose other files stay; the stored files are nobody's to change."""
    code = bench.save(tree(tmp_path / "code", main="1", model__notes="code", model__epoch="0"))
    saved = bench.save(tree(tmp_path / "saved", epoch="7", deep__weights="w"))
    plain = bench.assignment(code=code, artifacts=["model", "empty"])
    for _ in range(2):
        assignment = msgspec.structs.replace(plain, attempt_id=bench.assignment().attempt_id)
        cwd = asyncio.run(bench.lay_out(beginning(bench, assignment, "model", saved)))
        found = {str(path.relative_to(cwd)): path.read_text() for path in cwd.rglob("*") if path.is_file()}
        assert found == {"main": "1", "model/notes": "code", "model/epoch": "7", "model/deep/weights": "w"}
        assert (cwd / "empty").is_dir()
        (cwd / "model/epoch").write_text("8")  # the next one is not to see it
        bench.end(assignment)


def test_over_an_input_at_the_same_path(bench: Bench, tmp_path: Path) -> None:
    given = bench.save(tree(tmp_path / "given", epoch="3", other="x"))
    saved = bench.save(tree(tmp_path / "saved", epoch="7"))
    assignment = bench.assignment(("model", given), artifacts=["model"])
    cwd = asyncio.run(bench.lay_out(beginning(bench, assignment, "model", saved)))
    assert ((cwd / "model/epoch").read_text(), (cwd / "model/other").read_text()) == ("7", "x")
    bench.end(assignment)
    again = bench.assignment(("model", given), artifacts=["model"])
    cwd = asyncio.run(bench.lay_out(again))
    assert (cwd / "model/epoch").read_text() == "3", "the input itself was not written to"


@pytest.mark.parametrize(("attempt", "words"), [(0, "run old-cow-1"), (2, "attempt 2")])
def test_the_log_begins_with_why(attempt: int, words: str, tmp_path: Path, store: RecordingStore) -> None:
    bench = Bench(tmp_path / "home", store, "direct")
    saved = bench.save(tree(tmp_path / "saved", epoch="7"))
    assignment = beginning(bench, bench.assignment(artifacts=["model"]), "model", saved, attempt)
    asyncio.run(bench.lay_out(assignment))
    assert (bench.folder(assignment) / "spool").read_text() == (
        f"dstack: model begins with the last snapshot of {words} (2 files)\n"
    )


NOT_THE_LAST = {
    "asked": ", as was asked for",
    "empty": "; later ones hold no file: stop it, and `dstack resume old-cow-1 --fresh` begins with nothing",
    "lost": "; later ones are not whole in the store any more",
}


@pytest.mark.parametrize(("instead", "words"), NOT_THE_LAST.items())
def test_the_log_tells_of_one_that_is_not_the_last(
    instead: str, words: str, tmp_path: Path, store: RecordingStore
) -> None:
    bench = Bench(tmp_path / "home", store, "direct")
    saved = bench.save(tree(tmp_path / "saved", epoch="7"))
    assignment = beginning(bench, bench.assignment(artifacts=["model"]), "model", saved, instead=instead)
    asyncio.run(bench.lay_out(assignment))
    assert (bench.folder(assignment) / "spool").read_text() == (
        f"dstack: model begins with a snapshot of run old-cow-1, taken at 2022-07-01 12:00:00 UTC (2 files){words}\n"
    )


@pytest.mark.parametrize("attempt", [0, 2])
def test_a_snapshot_that_cannot_be_had_is_named_with_what_to_do(
    attempt: int, tmp_path: Path, store: RecordingStore
) -> None:
    bench = Bench(tmp_path / "home", store, "direct")
    plain = bench.assignment(artifacts=["model"])
    with pytest.raises(SetupError) as error:
        asyncio.run(bench.lay_out(beginning(bench, plain, "model", bytes(32), attempt)))
    whose = "run old-cow-1" if not attempt else "attempt 2"
    assert str(error.value).startswith(f"snapshot 000000000000 of model ({whose}) cannot be put back: chunk 0")
    assert str(error.value).endswith(f" holds it; `dstack resume {plain.run_name} --fresh` begins without any")


def test_an_older_one_is_offered(tmp_path: Path, store: RecordingStore) -> None:
    bench = Bench(tmp_path / "home", store, "direct")
    plain = bench.assignment(artifacts=["model"])
    with pytest.raises(SetupError) as error:
        asyncio.run(bench.lay_out(beginning(bench, plain, "model", bytes(32), older=b"\xab" * 32)))
    assert str(error.value).endswith(
        " holds it; `dstack resume old-cow-1 --at abababababab` begins with the one before it, `dstack artifacts log "
        f"old-cow-1` lists all, `dstack resume {plain.run_name} --fresh` begins without any"
    )


def test_a_path_that_leads_out_is_refused(tmp_path: Path, store: RecordingStore) -> None:
    bench = Bench(tmp_path / "home", store, "direct")
    saved = bench.save(tree(tmp_path / "saved", epoch="7"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code/model").symlink_to(tmp_path)
    assignment = beginning(bench, bench.assignment(code=bench.save(tmp_path / "code")), "model", saved)
    with pytest.raises(SetupError, match="leads out"):
        asyncio.run(bench.lay_out(assignment))
    assert not (tmp_path / "epoch").exists()
