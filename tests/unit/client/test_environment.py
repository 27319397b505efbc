"""What of the shell goes with a run."""

from __future__ import annotations

import stat
from pathlib import Path

from dstack.client.environment import allowed_environment, find_python


def test_only_declared_variables_go_along() -> None:
    shell = {
        "PATH": "/bin",
        "LC_TIME": "C",
        "UV_INDEX": "https://index",
        "PIP_INDEX_URL": "https://index",
        "HTTPS_PROXY": "http://proxy",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "HF_TOKEN": "s3cret",
        "DSTACK_TOKEN": "s3cret",
        "UV_PUBLISH_TOKEN": "s3cret",
        "CONDA_DEFAULT_ENV": "ml",
        "HF_HOME": "/data/hf",
        "PIPE": "no",
        "LANGUAGE": b"\xff".decode("utf-8", "surrogateescape"),
    }
    assert set(allowed_environment(shell)) == {
        "PATH", "LC_TIME", "UV_INDEX", "PIP_INDEX_URL", "HTTPS_PROXY", "CONDA_DEFAULT_ENV", "HF_HOME",
    }  # fmt: skip


def fake_python(folder: Path, version: str, log: Path) -> Path:
    """An interpreter that notes each start and says what a real one would."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "python3"
    path.write_text(f"#!/bin/sh\necho started >> {log}\necho {path}\necho {version}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_first_python_of_the_path_is_asked_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = fake_python(tmp_path / "a", "3.9.1", log)
    fake_python(tmp_path / "b", "3.8.0", log)
    shell = {"PATH": f"{tmp_path}/none:{tmp_path}/a:{tmp_path}/b"}
    cache = str(tmp_path / "cache" / "pythons.json")
    for _ in range(3):
        assert find_python(cache, folder=str(tmp_path), environ=shell) == {"path": str(first), "version": "3.9.1"}
    assert log.read_text() == "started\n"


def test_another_choice_of_a_version_switcher_is_noticed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    fake_python(tmp_path / "shims", "3.9.1", log)
    shell = {"PATH": f"{tmp_path}/shims"}
    cache = str(tmp_path / "pythons.json")
    find_python(cache, folder=str(tmp_path), environ=shell)
    (tmp_path / ".python-version").write_text("3.10\n")
    find_python(cache, folder=str(tmp_path), environ=shell)
    find_python(cache, folder=str(tmp_path), environ={**shell, "PYENV_VERSION": "3.12"})
    assert log.read_text() == "started\n" * 3


def test_a_virtual_environment_wins_and_is_not_started(tmp_path: Path) -> None:
    log = tmp_path / "log"
    fake_python(tmp_path / "a", "3.9.1", log)
    path = fake_python(tmp_path / "venv" / "bin", "never", log)
    (tmp_path / "venv" / "pyvenv.cfg").write_text("home = /usr\nversion_info = 3.12.4.final.0\n")
    shell = {"PATH": f"{tmp_path}/a", "VIRTUAL_ENV": f"{tmp_path}/venv"}
    found = find_python(str(tmp_path / "cache"), folder=str(tmp_path), environ=shell)
    assert found == {"path": str(path), "version": "3.12.4"}
    assert not log.exists()


def test_a_conda_environment_as_conda_lays_it_out(tmp_path: Path) -> None:
    """`bin/python3` is a link to `python3.X`, and there is no `pyvenv.cfg`; activating puts its `bin` first."""
    log = tmp_path / "log"
    base, own = tmp_path / "miniconda3", tmp_path / "miniconda3" / "envs" / "ml"
    for folder, minor, version in ((base, "3.12", "3.12.4"), (own, "3.10", "3.10.14")):
        real = fake_python(folder / "bin", version, log).rename(folder / "bin" / f"python{minor}")
        for name in ("python3", "python"):
            (folder / "bin" / name).symlink_to(real.name)
        (folder / "conda-meta").mkdir()
    shell = {
        "PATH": f"{own}/bin:{base}/condabin:/usr/bin", "CONDA_PREFIX": str(own), "CONDA_DEFAULT_ENV": "ml",
        "CONDA_SHLVL": "2", "CONDA_PREFIX_1": str(base), "CONDA_EXE": f"{base}/bin/conda",
    }  # fmt: skip
    cache = str(tmp_path / "pythons.json")
    found = find_python(cache, folder=str(tmp_path), environ=shell)
    assert found is not None
    assert found["version"] == "3.10.14"
    assert find_python(cache, folder=str(tmp_path), environ=shell) == found
    assert log.read_text() == "started\n", "asked once"
    # `conda install python=3.11` puts another program behind the same link.
    fake_python(tmp_path / "new", "3.11.9", log).rename(own / "bin" / "python3.11")
    (own / "bin" / "python3").unlink()
    (own / "bin" / "python3").symlink_to("python3.11")
    again = find_python(cache, folder=str(tmp_path), environ=shell)
    assert again is not None
    assert again["version"] == "3.11.9"
    # A virtual environment made from it wins, as in the shell itself.
    path = fake_python(tmp_path / "venv" / "bin", "never", log)
    (tmp_path / "venv" / "pyvenv.cfg").write_text("home = /x\nversion = 3.10.14\n")
    active = {**shell, "VIRTUAL_ENV": f"{tmp_path}/venv", "PATH": f"{tmp_path}/venv/bin:{shell['PATH']}"}
    assert find_python(cache, folder=str(tmp_path), environ=active) == {"path": str(path), "version": "3.10.14"}


def test_an_environment_whose_python_is_gone_is_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "log"
    path = fake_python(tmp_path / "a", "3.9.1", log)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python3").symlink_to("/nowhere/python3")
    shell = {"PATH": f"{tmp_path}/venv/bin:{tmp_path}/a", "VIRTUAL_ENV": f"{tmp_path}/venv"}
    assert find_python(str(tmp_path / "cache"), folder=str(tmp_path), environ=shell) == {
        "path": str(path), "version": "3.9.1",
    }  # fmt: skip


def test_no_python_is_no_error(tmp_path: Path) -> None:
    assert find_python(str(tmp_path / "cache"), folder=str(tmp_path), environ={"PATH": str(tmp_path)}) is None
