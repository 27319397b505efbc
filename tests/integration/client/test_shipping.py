"""A file goes as it is on disk, or it is named and nothing goes: unreadable, changing and very many files."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dstack.client import code, listing, tree
from dstack.client.repository import RepositoryError
from tests.support.describe import describe
from tests.support.repositories import commit, committed, git, project, put
from tests.support.shipping import Desk, as_nobody


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="dstack-test-") as made:
        os.chmod(made, 0o755)
        yield Path(made).resolve()


@pytest.fixture
def root(place: Path) -> Path:
    folder = place / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def desk(place: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """With a clock that is ahead of all changes: an unchanged tree counts as settled at once."""

    class Ahead:
        @staticmethod
        def time_ns() -> int:
            return 2**62

    monkeypatch.setattr(tree, "time", Ahead)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    folder = place / "desk"
    folder.mkdir()
    return Desk(folder)


def refused(desk: Desk, root: Path) -> str:
    """The words of the refusal."""
    with pytest.raises(RepositoryError) as error:
        desk.ship(root)
    assert error.value.hint
    return error.value.message


# What cannot be read


@pytest.mark.parametrize("make", [committed, project])
def test_an_unreadable_file_is_named_and_nothing_goes(desk: Desk, root: Path, make: Callable[[Path], Path]) -> None:
    make(root)
    put(root, "odd\nname.key").chmod(0)
    put(root, "lib/secret.key").chmod(0)
    with as_nobody(root, desk.folder):
        message = refused(desk, root)
        assert message.startswith("the code is not shipped, because of 2 files:\n")
        assert "  lib/secret.key: not saved, Permission denied" in message
        assert "  odd\\nname.key: not saved, Permission denied" in message
        # What could be read was not taken for the whole: asked again, it is refused again.
        assert refused(desk, root) == message
        put(root, ".dstackignore", "*.key\n")
        assert "lib/secret.key" not in desk.ship(root).notes
        (root / ".dstackignore").unlink()
        for path in (root / "odd\nname.key", root / "lib" / "secret.key"):
            path.chmod(0o600)
        assert desk.ship(root).code["files"] == len(
            [what for what in describe(bytes(root)).values() if what[0] == "file"]
        )


@pytest.mark.parametrize("with_git", [True, False])
def test_an_unreadable_folder_is_named(desk: Desk, root: Path, with_git: bool) -> None:
    (committed if with_git else project)(root)
    put(root, "locked/a.py")
    put(root, "tracked/b.py")
    if with_git:
        git(root, "add", "tracked")
    with as_nobody(root, desk.folder):
        (root / "locked").chmod(0)
        assert "  locked: Permission denied" in refused(desk, root)
        put(root, ".dstackignore", "/locked/\n")
        desk.ship(root)
        (root / "tracked").chmod(0o600)
        assert "  tracked" in refused(desk, root)
        (root / "tracked").chmod(0o300)
        assert "  tracked" in refused(desk, root)
        for name in ("locked", "tracked"):
            (root / name).chmod(0o755)


def test_ignore_files_that_cannot_be_read_are_named(desk: Desk, root: Path) -> None:
    committed(root)
    put(root, "lib/.dstackignore", "*.tmp\n")
    with as_nobody(root, desk.folder):
        (root / ".gitignore").chmod(0)
        assert "  .gitignore: Permission denied" in refused(desk, root)
        (root / ".gitignore").chmod(0o644)
        (root / "lib" / ".dstackignore").chmod(0)
        assert "  lib/.dstackignore: Permission denied" in refused(desk, root)
        put(root, ".dstackignore", "").chmod(0)
        with pytest.raises(RepositoryError, match=r"cannot read .*/project/\.dstackignore: Permission denied"):
            desk.ship(root)


def test_a_long_list_is_cut(desk: Desk, root: Path) -> None:
    committed(root)
    with as_nobody(root, desk.folder):
        for number in range(25):
            put(root, f"f{number:02}").chmod(0)
        message = refused(desk, root)
    assert (message.count("\n"), message.endswith("\n  and 15 more")) == (11, True)


# What changes meanwhile


def test_a_file_that_changed_before_it_was_read_goes_as_it_was_read(desk: Desk, root: Path) -> None:
    committed(root)
    desk.before_save = lambda: put(root, "train.py", "changed\n" * len(desk.saves))
    first = desk.ship(root)
    assert (desk.unpack(first.code, "one") / "train.py").read_text() == "changed\n"
    desk.before_save = lambda: None
    # What is remembered is the tree as it was looked at, which is no more.
    second = desk.ship(root)
    assert len(desk.saves) == 2
    assert (desk.unpack(second.code, "two") / "train.py").read_text() == "changed\n"


def test_a_file_that_goes_away_meanwhile_is_looked_for_again(desk: Desk, root: Path) -> None:
    committed(root)
    put(root, "temporary")
    desk.before_save = lambda: (root / "temporary").unlink(missing_ok=True)
    shipped = desk.ship(root)
    assert len(desk.saves) == 2
    assert not (desk.unpack(shipped.code, "copy") / "temporary").exists()


def test_a_file_that_never_stands_still_is_named(desk: Desk, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed(root)
    put(root, "growing.txt")
    from dstack.snapshots import reading

    read_all = reading._read_all  # pyright: ignore[reportPrivateUsage] - what another process would do meanwhile

    def growing(folder: int, name: bytes, size: int) -> tuple[bytes, os.stat_result]:
        found = read_all(folder, name, size)
        if name == b"growing.txt":
            with open(root / "growing.txt", "a") as file:
                file.write("more\n")
            return found[0], os.stat(root / "growing.txt")
        return found

    monkeypatch.setattr(reading, "_read_all", growing)
    monkeypatch.setattr(reading, "PAUSES", (0.0, 0.0))
    assert "  growing.txt: kept changing while it was read" in refused(desk, root)
    assert len(desk.saves) == 3
    put(root, ".dstackignore", "growing.txt\n")
    desk.ship(root)


def test_a_file_that_became_a_pipe_holds_nobody_up(desk: Desk, root: Path) -> None:
    committed(root)

    def swap() -> None:
        if (root / "train.py").is_file():
            (root / "train.py").unlink()
            os.mkfifo(root / "train.py")

    desk.before_save = swap
    shipped = desk.ship(root)
    assert "not shipped: train.py (a named pipe)" in shipped.notes


# What is remembered


def test_what_is_not_part_of_the_tree_is_told_of_when_it_comes(desk: Desk, root: Path) -> None:
    committed(root)
    first = desk.ship(root)
    assert first.notes == []
    os.mkfifo(root / "lib" / "pipe")
    with_pipe = desk.ship(root)
    assert with_pipe.notes == ["not shipped: lib/pipe (a named pipe)"]
    assert with_pipe.code == first.code
    put(root, "train.py", "changed\n")
    assert desk.ship(root).notes == with_pipe.notes
    put(root, ".gitignore", "pipe\n")
    assert desk.ship(root).notes == []
    assert len(desk.saves) == 3


def test_workflows_that_ship_different_files_do_not_undo_each_other(desk: Desk, root: Path) -> None:
    committed(root)
    put(root, "data/a.csv")
    put(
        root,
        ".dstack/workflows.yaml",
        "workflows:\n  - {name: one, provider: bash}\n  - {name: two, provider: bash, code: {include: [data/]}}\n",
    )
    commit(root)
    found = [desk.ship(root, name).code["files"] for name in ("one", "two", "one", "two")]
    assert found == [5, 6, 5, 6]
    assert len(desk.saves) == 2


def test_a_commit_changes_the_difference_and_not_the_code(desk: Desk, root: Path) -> None:
    committed(root)
    put(root, "train.py", "print(2)\n")
    first = desk.ship(root)
    commit(root)
    second = desk.ship(root)
    assert (first.code, bool(first.diff), second.diff) == (second.code, True, "")
    assert len(desk.saves) == 1


# Much code


def test_the_ten_largest_are_shown_before_much_is_shipped(
    desk: Desk, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "LARGE_SIZE", 10_000)
    committed(root)
    for number in range(12):
        put(root, f"big/{number:02}", "x" * (number + 1) * 1000)
    desk.agrees = False
    assert refused(desk, root).startswith("not shipped: 17 files, ")
    assert desk.saves == []
    [(files, size, largest)] = desk.asked
    assert (files, size > 78_000) == (17, True)
    assert largest == [f"big/{number:02}" for number in range(11, 1, -1)]
    desk.agrees = True
    desk.ship(root)
    put(root, "big/more", "x" * 1000)
    desk.ship(root)
    assert len(desk.asked) == 2
    put(root, "big/much more", "x" * 100_000)
    desk.ship(root)
    assert len(desk.asked) == 3


def test_many_files_are_much_code(desk: Desk, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "LARGE_FILES", 3)
    desk.ship(committed(root))
    assert len(desk.asked) == 1


# git


def test_a_hook_of_git_that_calls_dstack_does_not_lead_elsewhere(
    desk: Desk, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed(root)
    other = tmp_path / "other"
    other.mkdir()
    committed(other)
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_PREFIX"):
        monkeypatch.setenv(name, {"GIT_DIR": f"{other}/.git", "GIT_INDEX_FILE": "/nonexistent"}.get(name, str(other)))
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "1")
    put(root, "train.py", "print('here')\n")
    shipped = desk.ship(root)
    assert (desk.unpack(shipped.code, "copy") / "train.py").read_text() == "print('here')\n"
    assert "+print('here')" in (shipped.diff or "")


def test_a_repository_of_somebody_else_is_refused_in_gits_words(desk: Desk, root: Path) -> None:
    committed(root)
    if os.geteuid() == 0:
        os.chown(root, 12345, 12345)
    else:
        pytest.fail("making a folder of another owner needs root: run this test as root")
    with pytest.raises(RepositoryError, match=r"dubious ownership(.|\n)*safe\.directory"):
        desk.ship(root)


def test_without_git_installed_every_file_goes_and_that_is_said(
    desk: Desk, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed(root)
    put(root, "out.log")
    monkeypatch.setenv("PATH", "/nonexistent")
    shipped = desk.ship(root)
    assert shipped.notes == ["git is not installed: all files are shipped, also those that a .gitignore names"]
    assert (desk.unpack(shipped.code, "copy") / "out.log").exists()
    assert not (desk.unpack(shipped.code, "copy") / ".git").exists()
    assert shipped.diff is None


@pytest.mark.parametrize(
    ("text", "walked"),
    [
        ("/data/\n*.tmp/\ndeep/**/x\n#data2\n\\#odd\n", set[str]()),
        # git would take what is brought back here for what a .gitignore must not name, either.
        ("/data/\n*.tmp/\ndeep/**/x\n\\#odd\n!nothing\n", {"data/a", "b.tmp/c", "deep/er/x/y", "#odd/z"}),
    ],
)
def test_git_is_told_what_it_need_not_walk_through(
    desk: Desk, root: Path, monkeypatch: pytest.MonkeyPatch, text: str, walked: set[str]
) -> None:
    named: list[str] = []

    class Recording(listing.GitOutput):
        def read(self, most: int | None = None) -> bytes:
            output = super().read(most)
            named.extend(entry[2:] for entry in os.fsdecode(output).split("\0"))
            return output

    monkeypatch.setattr(listing, "GitOutput", Recording)
    committed(root)
    inner = put(root, "in [ner]/.dstack/workflows.yaml", "workflows: []\n").parents[1]
    put(inner, ".dstackignore", text)
    for path in ("data/a", "b.tmp/c", "deep/er/x/y", "#odd/z", "sub/data/kept"):
        put(inner, path)
    desk.ship(inner)
    shipped = {".dstack/workflows.yaml", ".dstackignore", "sub/data/kept"}
    assert set(desk.saves[0]) == shipped
    assert set(named) - {""} == shipped | walked


def test_a_socket_that_is_ignored_is_not_told_of(desk: Desk, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed(root)
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        one.bind("server.log")
        two.bind(":(top)x.log")
        assert desk.ship(root).notes == []


def test_a_tree_without_any_file_of_its_own_ships(desk: Desk, root: Path) -> None:
    committed(root)
    put(root, ".dstackignore", "*\n")
    assert desk.ship(root).code["files"] == 0
