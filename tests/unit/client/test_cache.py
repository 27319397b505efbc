"""What is remembered of what was shipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dstack.client.cache import CodeCache, Shipped
from dstack.client.sent import CodeRef

CODE: CodeRef = {"manifest_id": "a" * 64, "content_id": "b" * 64, "files": 1, "size": 2}


def shipped(diff: str | None = "+1\n", **more: str) -> Shipped:
    return Shipped(CODE, ["a note"], "around", more, diff)


def opened(folder: Path, root: str = "/root") -> CodeCache:
    return CodeCache(str(folder), root, "")


def test_a_tree_is_known_again_with_its_difference(tmp_path: Path) -> None:
    opened(tmp_path).remember("d1", "c1", shipped(pipe="a named pipe"), 7)
    cache = opened(tmp_path)
    found = cache.find("d1", "c1")
    assert found is not None
    assert (found.code, found.notes, found.surroundings, found.diff) == (CODE, ["a note"], "around", "+1\n")
    assert cache.special("around") == {"pipe": "a named pipe"}
    assert cache.special("other") is None
    assert cache.confirmed_size == 7
    assert cache.find("d2", "c1") is None
    assert opened(tmp_path, "/other").find("d1", "c1") is None


@pytest.mark.parametrize(("diff", "again"), [("", ""), (None, None), ("x\r\n\u2028", "x\r\n\u2028")])
def test_no_difference_is_not_an_unknown_one(tmp_path: Path, diff: str | None, again: str | None) -> None:
    opened(tmp_path).remember("d1", "c1", shipped(diff), 0)
    found = opened(tmp_path).find("d1", "c1")
    assert found is not None
    assert found.diff == again


def test_a_difference_belongs_to_its_commit_and_tree(tmp_path: Path) -> None:
    opened(tmp_path).remember("d1", "c1", shipped(), 0)
    found = opened(tmp_path).find("d1", "c2")
    assert found is not None
    assert found.diff is None
    opened(tmp_path).remember("d2", "c1", shipped("+2\n"), 0)
    of_the_first = opened(tmp_path).find("d1", "c1")
    assert of_the_first is not None
    assert of_the_first.diff is None


def test_of_two_commands_at_once_neither_takes_the_others_difference(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    one.remember("d1", "c1", shipped("+1\n"), 0)
    content = Path(one.path).read_text()
    two.remember("d2", "c2", shipped("+2\n"), 0)
    # The files as they lie when the second one's difference was written last, and the first one's record.
    Path(one.path).write_text(content)
    found = opened(tmp_path).find("d1", "c1")
    assert found is not None
    assert found.diff is None


def test_some_trees_are_kept(tmp_path: Path) -> None:
    for number in range(6):
        opened(tmp_path).remember(f"d{number}", "c", shipped(), 0)
    known = [opened(tmp_path).find(f"d{number}", "c") is not None for number in range(6)]
    assert known == [False, False, True, True, True, True]


def test_forgetting_leaves_nothing(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.remember("d1", "c1", shipped(), 7)
    cache.forget()
    assert list(tmp_path.iterdir()) == []
    assert cache.find("d1", "c1") is None


@pytest.mark.parametrize("content", ["", "[1]", '{"format": 1}', "\0", "null", '{"format": '])
def test_a_damaged_cache_is_no_cache(tmp_path: Path, content: str) -> None:
    cache = opened(tmp_path)
    cache.remember("d1", "c1", shipped(), 7)
    Path(cache.path).write_text(content)
    assert opened(tmp_path).find("d1", "c1") is None
    assert opened(tmp_path).confirmed_size == 0


def test_a_damaged_difference_is_none(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.remember("d1", "c1", shipped(), 7)
    for content in (b"", b"\xff\xfe", json.dumps(["d1", "c2"]).encode() + b"\n+1\n"):
        Path(cache.diff_path).write_bytes(content)
        found = opened(tmp_path).find("d1", "c1")
        assert found is not None
        assert found.diff is None


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = CodeCache(str(tmp_path / "file" / "below"), "/root", "")
    cache.remember("d1", "c1", shipped(), 7)
    cache.forget()
    assert CodeCache(str(tmp_path / "file" / "below"), "/root", "").find("d1", "c1") is None
