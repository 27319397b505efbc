from __future__ import annotations

from pathlib import Path

from dstack.runner import pythons


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    path.chmod(0o755)
    return path


def test_the_path_comes_first_then_newer_managed_ones(tmp_path: Path) -> None:
    first = program(tmp_path / "bin/python3.11")
    (tmp_path / "bin/python3").symlink_to("python3.11")
    program(tmp_path / "bin/python3-config")
    program(tmp_path / ".pyenv/shims/python3.9")
    managed = [program(tmp_path / f".pyenv/versions/3.{minor}/bin/python3.{minor[:-2]}") for minor in ("9.1", "10.2")]
    own = program(tmp_path / ".local/share/uv/python/cpython-3.13.0-linux-x86_64-gnu/bin/python3.13")
    (tmp_path / ".pyenv/versions/mytorch").mkdir()
    environment = {"PATH": f"{tmp_path}/bin:{tmp_path}/.pyenv/shims", "HOME": str(tmp_path)}
    assert pythons.minor_versions(environment) == {
        "3.9": str(managed[0]),
        "3.10": str(managed[1]),
        "3.11": f"{tmp_path}/bin/python3",
        "3.13": str(own),
    }
    found = pythons.find("3.11", environment)
    assert found is not None
    assert found.resolve() == first
    assert pythons.find("3.10.2", environment) == managed[1]
    assert pythons.find("3.10.3", environment) is None
    assert pythons.find("3.1", environment) is None
