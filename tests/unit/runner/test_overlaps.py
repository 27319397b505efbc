"""Inputs that share paths: the same bytes are one input, other bytes are told before the job starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack.protocol.messages import InputRef
from dstack.runner.overlaps import clash
from dstack.snapshots.capture import save
from tests.support.stores import RecordingStore


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore()


def given(store: RecordingStore, folder: Path, job: str, path: str, **files: str) -> InputRef:
    for name, text in files.items():
        place = folder / job / name.replace("__", "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("->"):
            place.symlink_to(text[2:])
        else:
            place.write_text(text)
    return InputRef(path=path, manifest_id=save(folder / job, store).manifest_id, run_name="old-cow-1", job_name=job)


@pytest.mark.parametrize(
    ("first", "second", "path"),
    [
        (("o", {"x": "1"}), ("o", {"x": "2"}), "o/x"),
        (("o", {"a__x": "1", "b": "b"}), ("o/a", {"x": "2"}), "o/a/x"),
        (("o/a", {"x": "1"}), ("./o/", {"a__x": "2"}), "o/a/x"),
        (("o", {"x": "1"}), ("o", {"x__y": "1"}), "o/x"),
        (("o", {"x": "->a"}), ("o", {"x": "->b"}), "o/x"),
    ],
)
def test_other_bytes_for_a_path_are_named_with_both_jobs(
    store: RecordingStore,
    tmp_path: Path,
    first: tuple[str, dict[str, str]],
    second: tuple[str, dict[str, str]],
    path: str,
) -> None:
    inputs = [given(store, tmp_path, "p1", first[0], **first[1]), given(store, tmp_path, "p2", second[0], **second[1])]
    assert clash(store, inputs) == (
        f"`p1` of run old-cow-1 and `p2` of run old-cow-1 bring different files for `{path}`: "
        "depend on one of them, or let them write to different folders"
    )


def test_shards_of_one_folder_and_the_same_bytes_twice_are_fine(store: RecordingStore, tmp_path: Path) -> None:
    inputs = [
        given(store, tmp_path, "p1", "o", a="1", shared="s"),
        given(store, tmp_path, "p2", "o", b="2", shared="s"),
        given(store, tmp_path, "p3", "other", a="3"),
        given(store, tmp_path, "p4", "oo", a="4"),
    ]
    assert clash(store, inputs) == ""


def test_what_has_no_path_in_common_is_not_read(store: RecordingStore, tmp_path: Path) -> None:
    inputs = [
        given(store, tmp_path, f"p{number}", path, a=path) for number, path in enumerate(["a", "ab", "b/c", "b/d"])
    ]
    store.log.clear()
    assert clash(store, inputs) == ""
    assert store.log == []


def test_each_of_many_is_read_once(store: RecordingStore, tmp_path: Path) -> None:
    inputs = [given(store, tmp_path, f"p{number}", "o", **{f"file{number}": "x"}) for number in range(30)]
    store.log.clear()
    assert clash(store, inputs) == ""
    read = [key for what, key in store.log if what == "get"]
    assert len(read) <= 3 * 30, "a root, for its content and again for its files, and a folder of each"
