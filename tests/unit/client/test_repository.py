"""Where a repository is, what it is called, and what of it is read."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

import pytest

from dstack.client import repository
from dstack.client.git import git_folder, normalise_remote, read_head, read_remote
from dstack.client.repository import RepositoryError, find_root, identify, read_files, require_root


def make(root: Path, *, git: str | None = None) -> Path:
    (root / ".dstack").mkdir(parents=True)
    (root / ".dstack" / "workflows.yaml").write_text("workflows: []\n")
    if git is not None:
        make_git(root, git)
    return root


def make_git(top: Path, config: str) -> None:
    (top / ".git" / "refs" / "heads").mkdir(parents=True)
    (top / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (top / ".git" / "config").write_text(config)


ORIGIN = '[core]\n\tbare = false\n[remote "origin"]\n\turl = git@github.com:me/models.git\n'


def test_the_nearest_folder_upwards_is_the_root(tmp_path: Path) -> None:
    root = make(tmp_path / "project")
    below = root / "a" / "b"
    below.mkdir(parents=True)
    assert find_root(str(below)) == str(root)


def test_a_bare_dstack_folder_is_no_repository(tmp_path: Path) -> None:
    outer = make(tmp_path / "outer")
    (outer / "inner" / ".dstack").mkdir(parents=True)
    assert find_root(str(outer / "inner")) == str(outer)


@pytest.mark.parametrize("kind", ["workflows.yml", "workflows"])
def test_other_forms_of_the_workflow_file_count(tmp_path: Path, kind: str) -> None:
    (tmp_path / ".dstack").mkdir()
    path = tmp_path / ".dstack" / kind
    _ = path.mkdir() if kind == "workflows" else path.write_text("")
    assert find_root(str(tmp_path)) == str(tmp_path)


def test_a_folder_named_wrongly_gets_the_one_above_as_a_hint(tmp_path: Path) -> None:
    root = make(tmp_path)
    (root / "src").mkdir()
    with pytest.raises(RepositoryError, match=r"src has no \.dstack/workflows\.yaml") as error:
        require_root(str(root / "src"))
    assert error.value.hint == f"did you mean --repo {root}?"


def test_only_yaml_below_dstack_is_sent(tmp_path: Path) -> None:
    root = make(tmp_path)
    (root / ".dstack" / "variables.yaml").write_text("variables: {}\n")
    (root / ".dstack" / "notes.txt").write_text("no\n")
    (root / ".dstack" / "workflows" / "more").mkdir(parents=True)
    (root / ".dstack" / "workflows" / "more" / "x.yml").write_text("a: 1\r\n")
    assert read_files(str(root)) == {
        ".dstack/variables.yaml": "variables: {}\n",
        ".dstack/workflows.yaml": "workflows: []\n",
        ".dstack/workflows/more/x.yml": "a: 1\r\n",
    }


@pytest.mark.parametrize(
    "written",
    [
        "include: ci/a.yaml\n", "include: [./ci/a.yaml]\n", "include:\n  - ci/a.yaml\n",
        "include:\n- 'ci/a.yaml' # a\n",
        '"include": ["ci/gone.yaml", "ci/a.yaml"]\n', "workflows: []\ninclude:\n  # more\n\n  - ci/a.yaml\n",
    ],
)  # fmt: skip
def test_what_files_include_is_sent(written: str, tmp_path: Path) -> None:
    root = make(tmp_path / "project")
    (root / ".dstack" / "workflows.yaml").write_text(written)
    (root / "ci").mkdir()
    (root / "ci" / "a.yaml").write_text("include: ci/b.yml\n")
    (root / "ci" / "b.yml").write_text("include: [ci/a.yaml]\n")
    (root / "ci" / "c.yaml").write_text("not: asked for\n")

    assert set(read_files(str(root))) == {".dstack/workflows.yaml", "ci/a.yaml", "ci/b.yml"}


def test_what_lies_outside_of_the_repository_is_not_sent(tmp_path: Path) -> None:
    root = make(tmp_path / "project")
    (tmp_path / "secret.yaml").write_text("key: 1\n")
    (root / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    (root / "folder").symlink_to(tmp_path)
    named = f"../secret.yaml, {tmp_path}/secret.yaml, link.yaml, folder/secret.yaml, folder"
    (root / ".dstack" / "workflows.yaml").write_text(f"include: [{named}]\n")

    assert set(read_files(str(root))) == {".dstack/workflows.yaml"}


def test_the_folder_may_have_any_name(tmp_path: Path) -> None:
    """What is above the repository is not sent; the name of a file within that is no text cannot be."""
    root = make(Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9 \n")))
    assert list(read_files(str(root))) == [".dstack/workflows.yaml"]
    assert identify(str(root)).get("key", "").endswith(r"caf\xe9 " + "\n")
    Path(os.fsdecode(bytes(root) + b"/.dstack/\xff.yaml")).touch()
    with pytest.raises(RepositoryError, match=r"\.dstack/\\xff\.yaml is not UTF-8"):
        read_files(str(root))


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    root = make(tmp_path)
    (root / ".dstack" / "workflows.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(RepositoryError, match=r"workflows\.yaml is not UTF-8: byte 3 is 0xff"):
        read_files(str(root))


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("git@github.com:me/models.git", "github.com/me/models"),
        ("https://me:secret@GitHub.com/me/models.git/", "github.com/me/models"),
        ("https://github.com:443/me/models", "github.com/me/models"),
        ("ssh://git@github.com:22/me/models.git", "github.com/me/models"),
        ("ssh://git@host:2222/me/models.git", "host:2222/me/models"),
        ("git://host/models", "host/models"),
        ("/srv/git/models.git", "file:///srv/git/models.git"),
        ("file:///srv/git/models.git", "file:///srv/git/models.git"),
    ],
)
def test_a_remote_has_one_spelling_and_no_credentials(url: str, normal: str) -> None:
    assert normalise_remote(url) == normal


def test_the_remote_and_the_folder_within_are_the_key(tmp_path: Path) -> None:
    make_git(tmp_path, ORIGIN)
    root = make(tmp_path / "examples" / "digits")
    found = identify(str(root))
    assert found.get("key") == "github.com/me/models:examples/digits"
    assert found.get("branch") == "main"
    own = (tmp_path / ".git" / "dstack-id").read_text()
    assert found.get("aliases") == [f"git-{own}:examples/digits"]


def test_without_a_remote_a_random_id_is_the_key_and_stays(tmp_path: Path) -> None:
    root = make(tmp_path, git="[core]\n\tbare = false\n")
    first = identify(str(root)).get("key", "")
    assert first.startswith("git-")
    (root / ".git" / "config").write_text(ORIGIN)
    later = identify(str(root))
    assert later.get("key") == "github.com/me/models"
    assert later.get("aliases") == [first]


def test_without_git_the_path_is_the_key(tmp_path: Path) -> None:
    assert identify(str(make(tmp_path))).get("key") == str(tmp_path)


def test_a_linked_work_tree_shares_the_key(tmp_path: Path) -> None:
    make_git(tmp_path / "first", "[core]\n\tbare = false\n")
    own = tmp_path / "first" / ".git" / "worktrees" / "second"
    own.mkdir(parents=True)
    (own / "commondir").write_text("../..\n")
    (own / "HEAD").write_text("0123456789abcdef0123456789abcdef01234567\n")
    second = make(tmp_path / "second")
    (second / ".git").write_text(f"gitdir: {own}\n")
    make_first = make(tmp_path / "first" / "p")
    assert identify(str(second)).get("key") == identify(str(make_first)).get("key", "").removesuffix(":p")
    git = git_folder(str(second))
    assert git is not None
    assert read_head(git) == (None, "0123456789abcdef0123456789abcdef01234567")


def test_heads_are_read_loose_and_packed(tmp_path: Path) -> None:
    make_git(tmp_path, ORIGIN)
    git = git_folder(str(tmp_path))
    assert git is not None
    assert read_head(git) == ("main", None)
    (tmp_path / ".git" / "packed-refs").write_text("# pack-refs\n" + "a" * 40 + " refs/heads/main\n")
    assert read_head(git) == ("main", "a" * 40)
    (tmp_path / ".git" / "refs" / "heads" / "main").write_text("b" * 40 + "\n")
    assert read_head(git) == ("main", "b" * 40)


def test_origin_wins_over_other_remotes(tmp_path: Path) -> None:
    make_git(tmp_path, '[remote "fork"]\n\turl = https://x/fork\n' + ORIGIN)
    git = git_folder(str(tmp_path))
    assert git is not None
    assert read_remote(git) == "git@github.com:me/models.git"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("workflows:".encode("utf-16"), "is UTF-16, not UTF-8"),
        (b"workflows: caf\xe9", "is not UTF-8: byte 14 is 0xe9"),
    ],
)
def test_a_file_in_another_encoding_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    root = tmp_path
    (root / ".dstack").mkdir()
    (root / ".dstack/workflows.yaml").write_bytes(content)

    with pytest.raises(RepositoryError) as caught:
        read_files(str(root))

    assert message in caught.value.message
    assert caught.value.hint == "save it as UTF-8 text"


def test_what_no_server_takes_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "MOST_TEXT", 100)
    (tmp_path / ".dstack/workflows").mkdir(parents=True)
    (tmp_path / ".dstack/workflows.yaml").write_text("#" * 60)
    (tmp_path / ".dstack/workflows/more.yaml").write_text("#" * 40)
    assert len(read_files(str(tmp_path))) == 2

    (tmp_path / ".dstack/workflows/more.yaml").write_text("#" * 41)

    with pytest.raises(RepositoryError, match=r"up to .*more\.yaml hold more than"):
        read_files(str(tmp_path))


def test_on_a_mac_a_folder_is_called_as_it_is_spelled_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file system takes `Project` and `project` for one; here a link does the same."""
    (tmp_path / "Project" / ".dstack" / "workflows").mkdir(parents=True)

    def spell(fd: int, command: int, room: bytes) -> bytes:
        assert (command, len(room)) == (50, 1024)
        return os.readlink(f"/proc/self/fd/{fd}").replace("project", "Project").encode() + bytes(3)

    (tmp_path / "project" / ".dstack" / "workflows").mkdir(parents=True)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "fcntl", spell)
    assert find_root(f"{tmp_path}/project") == f"{tmp_path}/Project"
    assert require_root(f"{tmp_path}/project") == f"{tmp_path}/Project"
    assert repository.real_path(f"{tmp_path}/nowhere") == f"{tmp_path}/nowhere"
