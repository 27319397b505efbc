"""The database leaves a home that is on a network file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack.server.location import NETWORK, database_folder, file_system


def mounts(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "mounts"
    path.write_text("".join(f"{line}\n" for line in ("/dev/vda / ext4 rw 0 0", *lines)), encoding="utf-8")
    return path


def test_a_local_home_keeps_its_database(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert database_folder(home, mounts(tmp_path), tmp_path) == home / "server"


@pytest.mark.parametrize("kind", sorted(NETWORK))
def test_a_network_home_has_its_database_in_a_private_folder_of_the_host(tmp_path: Path, kind: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    table = mounts(tmp_path, f"server:/export {home} {kind} rw 0 0")
    base = tmp_path / "local"
    base.mkdir()
    folder = database_folder(home, table, base)
    assert folder.is_relative_to(base)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert database_folder(home, table, base) == folder


def test_a_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    table = mounts(tmp_path, f"server:/export {home} nfs4 rw 0 0")
    folder = database_folder(home, table, tmp_path)
    folder.chmod(0o755)
    with pytest.raises(PermissionError, match="not this user's alone"):
        database_folder(home, table, tmp_path)


def test_the_deepest_mount_decides_and_escapes_are_read(tmp_path: Path) -> None:
    spaced = tmp_path / "my home"
    spaced.mkdir()
    escaped = str(spaced).replace(" ", "\\040")
    table = mounts(tmp_path, f"a:/x {tmp_path} nfs rw 0 0", f"/dev/vdb {escaped} xfs rw 0 0")
    assert file_system(spaced, table) == "xfs"
    assert file_system(tmp_path, table) == "nfs"
    assert file_system(Path(f"{tmp_path}x"), table) == "ext4"
    assert file_system(tmp_path, tmp_path / "missing") == ""
