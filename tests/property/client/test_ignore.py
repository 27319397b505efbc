"""`.dstackignore` is read as git reads a .gitignore: git itself is asked."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstack.client.ignore import IgnoreRules

NAMES = st.sampled_from(["a", "b", "ab", "a.b", "b.a", "-", "a b", "[a]", "!a", "#a", "a*", "ba", "x", "z", "\\"])
WORDS = r"a b x . - * ? ** *** [ab] [!a] [^b] [a-c] []a] [[:alpha:]] [[:nope:]] \* \a [a \ [z-a] [!z-a] [b-] [\]]"
PIECES = st.sampled_from([*WORDS.split(), " ", "\\ "])
SEGMENTS = st.lists(PIECES, min_size=1, max_size=3).map("".join)
PATTERNS = st.builds(
    lambda negated, anchor, segments, end: negated + anchor + "/".join(segments) + end,
    st.sampled_from(["", "", "!", "#"]),
    st.sampled_from(["", "", "/"]),
    st.lists(SEGMENTS, min_size=1, max_size=3),
    st.sampled_from(["", "", "/", "/**", " ", "\\ ", "\r"]),
)
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=3).map("/".join), min_size=1, max_size=10, unique=True)


@pytest.fixture(scope="module")
def work_tree() -> Iterator[Path]:
    """A folder that git knows, on a file system that costs little."""
    with tempfile.TemporaryDirectory() as made:
        subprocess.run(["git", "init", "-q", made], check=True)
        (Path(made) / "a").mkdir()
        yield Path(made)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(top=st.lists(PATTERNS, max_size=4), deeper=st.lists(PATTERNS, max_size=3), paths=PATHS)
def test_what_is_ignored(work_tree: Path, top: Sequence[str], deeper: Sequence[str], paths: Sequence[str]) -> None:
    texts = ["\n".join(lines) + "\n" for lines in (top, deeper)]
    (work_tree / ".gitignore").write_text(texts[0], newline="")
    (work_tree / "a" / ".gitignore").write_text(texts[1], newline="")
    files = [path for path in paths if path != "a"]
    rules = IgnoreRules(texts[0])
    rules.add("a", texts[1])
    ignored = {path for path in files if rules.ignores(path)}
    assert ignored == git_ignores(work_tree, files)
    assert rules.keep(files) == [path for path in files if path not in ignored]


def git_ignores(folder: Path, files: Sequence[str]) -> set[str]:
    done = subprocess.run(
        ["git", "-C", str(folder), "check-ignore", "--no-index", "-z", "--stdin"],
        input="\0".join(files).encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return set(done.stdout.decode().split("\0")) - {""}
