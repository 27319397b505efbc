"""What names something that was saved, and which snapshots it means."""

from __future__ import annotations

from typing import Any

import pytest

from dstack.client.sources import ArtifactError, Source, find, is_snapshot, parse, plain_path, within


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("odd-cat-1", ("odd-cat-1", None, None, None, None)),
        ("odd-cat-1:out/a b", ("odd-cat-1", None, None, None, "out/a b")),
        ("odd-cat-1/train-0:out", ("odd-cat-1", None, None, "train-0", "out")),
        ("odd-cat-1@0123abcd/train:x:y", ("odd-cat-1", None, "0123abcd", "train", "x:y")),
        (":v1", (None, "v1", None, None, None)),
        (":v1.2:out", (None, "v1.2", None, None, "out")),
        (":v1@0123abcd/train", (None, "v1", "0123abcd", "train", None)),
        ("odd-cat-1:", ("odd-cat-1", None, None, None, None)),
    ],
)
def test_parts(text: str, source: tuple[str | None, ...]) -> None:
    run, tag, snapshot, job, path = source
    assert parse(text) == Source(text, run, tag, snapshot, job, path)


@pytest.mark.parametrize("text", ["", ":", "a b", "/x", "@0123abcd", "odd-cat-1@latest", "odd-cat-1@abc", "a/"])
def test_what_names_nothing(text: str) -> None:
    with pytest.raises(ArtifactError):
        parse(text)


@pytest.mark.parametrize(
    ("artifact", "path", "inside"),
    [
        ("out", "", ""),
        ("out", "out", ""),
        ("out/", "out/x", "x"),
        ("out", "out/x/y", "x/y"),
        ("out/models", "out", ""),
        ("out", "outer", None),
        ("outer", "out", None),
        (".", "x", "x"),
        (".", "", ""),
    ],
)
def test_within(artifact: str, path: str, inside: str | None) -> None:
    assert within(artifact, path) == inside


def test_paths() -> None:
    assert [plain_path(text) for text in ("", ".", "./a//b/", "a/../b")] == ["", "", "a/b", "b"]
    for text in ("..", "../x", "a/../../x", "a\0b"):
        with pytest.raises(ArtifactError):
            plain_path(text)
    assert [is_snapshot(text) for text in ("0123abcd", "0123abc", "0123ABCD", "0123abcx")] == [
        True,
        False,
        False,
        False,
    ]


class Saved:
    """An API that knows a history."""

    def __init__(self, *items: tuple[str, str, str, int]) -> None:
        self.items = [{"run": "r", "job": job, "path": path, "manifest_id": name * 8, "at": at}
                      for job, path, name, at in items]  # fmt: skip

    def artifact_history(self, **_: Any) -> list[dict[str, Any]]:
        return sorted(self.items, key=lambda item: -item["at"])


HISTORY = Saved(("a", "x", "a1", 1), ("a", "x", "a2", 5), ("a", "y", "b1", 3), ("b", "x", "c1", 4), ("b", "x", "a1", 6))


def found(source: str = "r", **more: Any) -> list[tuple[str, str, str]]:
    items = find(HISTORY, parse(source), **more)  # pyright: ignore[reportArgumentType] - the part of an API that is used
    return sorted((item["job"], item["path"], item["manifest_id"][:2]) for item in items)  # pyright: ignore[reportTypedDictNotRequiredAccess]


def test_as_it_was_at_a_time() -> None:
    assert found(at=4) == [("a", "x", "a1"), ("a", "y", "b1"), ("b", "x", "c1")]
    assert found(at=9) == [("a", "x", "a2"), ("a", "y", "b1"), ("b", "x", "a1")]
    with pytest.raises(ArtifactError, match="had not saved anything by then"):
        found(at=0)


def test_as_it_was_when_a_snapshot_was_taken() -> None:
    assert found(snapshot="c1c1c1c1") == [("a", "x", "a1"), ("a", "y", "b1"), ("b", "x", "c1")]
    same = "the same content, saved by two jobs; by the second when the first had another"
    assert found(snapshot="a1a1a1a1") == [("a", "x", "a1"), ("a", "y", "b1"), ("b", "x", "a1")], same
    with pytest.raises(ArtifactError, match="there is no snapshot dddddddd of r"):
        found(snapshot="dddddddd")


def test_one_snapshot() -> None:
    assert found("r@c1c1c1c1") == [("b", "x", "c1")]
    assert found("r@a1a1a1a1") == [("a", "x", "a1"), ("b", "x", "a1")], "the same content, saved by two jobs"


def test_a_snapshot_that_is_not_named_well_enough() -> None:
    twins = Saved(("a", "x", "a1", 1), ("a", "x", "a1", 2))
    twins.items[1]["manifest_id"] = "a1" * 7 + "ff"
    with pytest.raises(ArtifactError, match="2 snapshots of r begin with a1a1a1a1"):
        find(twins, parse("r@a1a1a1a1"))  # pyright: ignore[reportArgumentType] - as above
