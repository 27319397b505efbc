"""Which server is chosen, and the file of profiles."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dstack.client import profiles
from dstack.client.profiles import ProfileError, choose, read_profiles, write_profiles

if TYPE_CHECKING:
    from dstack.client.profiles import Profile

FILE = """\
profiles:
  default:
    server: https://dstack.example.org
    token: t0k
  other:
    server: http://10.0.0.5:3000
    project: vision
    verify: false
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(FILE)
    return tmp_path


def test_without_anything_it_is_the_local_server(tmp_path: Path) -> None:
    target = choose(str(tmp_path), {})
    assert (target.address, target.token, target.project, target.origin) == ("", "", "main", "")


def test_the_default_profile(home: Path) -> None:
    target = choose(str(home), {})
    assert (target.address, target.token, target.project) == ("https://dstack.example.org", "t0k", "main")
    assert target.origin == f"the profile `default` of {home}/config.yaml"


def test_another_profile(home: Path) -> None:
    target = choose(str(home), {"DSTACK_PROFILE": "other"})
    assert (target.address, target.token, target.project, target.verify) == (
        "http://10.0.0.5:3000",
        "",
        "vision",
        False,
    )


def test_variables_outrank_the_profile_part_by_part(home: Path) -> None:
    target = choose(str(home), {"DSTACK_TOKEN": "mine", "DSTACK_PROJECT": "p"})
    assert (target.address, target.token, target.project) == ("https://dstack.example.org", "mine", "p")


def test_a_profiles_token_goes_to_no_other_server(home: Path) -> None:
    target = choose(str(home), {"DSTACK_SERVER": "https://elsewhere.example.org"})
    assert (target.address, target.token) == ("https://elsewhere.example.org", "")


@pytest.mark.parametrize("environ", [{"DSTACK_SERVER": "local"}, {"DSTACK_PROFILE": "local"}])
def test_the_local_server_in_spite_of_a_default_profile(home: Path, environ: dict[str, str]) -> None:
    assert choose(str(home), environ).address == ""


def test_a_profile_that_is_not_there(home: Path) -> None:
    with pytest.raises(ProfileError) as error:
        choose(str(home), {"DSTACK_PROFILE": "othr"})
    assert "there is no profile `othr`" in error.value.message
    assert error.value.hint == "profiles: `default`, `other`; dstack config othr"


def test_another_file(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine.yaml"
    other.write_text("profiles: {default: {server: 'https://x'}}\n")
    assert choose(str(home), {"DSTACK_CONFIG": str(other)}).address == "https://x"


def test_it_is_private_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "config.yaml"
    write_profiles(str(path), {"default": {"token": "x"}})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    write_profiles(str(path), {})
    assert (stat.S_IMODE(path.stat().st_mode), read_profiles(str(path)), len(list(path.parent.iterdir()))) == (
        0o600,
        {},
        1,
    )


TEXT = st.text(max_size=12)
PROFILE = st.fixed_dictionaries({}, optional={"server": TEXT, "token": TEXT, "project": TEXT, "verify": st.booleans()})


@given(st.dictionaries(TEXT, PROFILE, max_size=3))
def test_what_is_written_is_read_by_us_and_by_any_yaml_parser(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Profile]
) -> None:
    path = tmp_path_factory.getbasetemp() / "profiles.yaml"
    write_profiles(str(path), content)
    assert read_profiles(str(path)) == content
    assert {name: value or {} for name, value in yaml.safe_load(path.read_text())["profiles"].items()} == content


def test_what_we_write_takes_no_yaml_parser(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert list(read_profiles(str(home / "config.yaml"))) == ["default", "other"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profiles: [", "is not YAML"),
        ("- a\n", "the file must hold"),
        ("profile: {}\n", "unknown key `profile`"),
        ("profiles:\n  a: 1\n", "the profile `a` must hold"),
        ("profiles:\n  a:\n    sever: x\n", "unknown key `sever` of the profile `a`"),
        ("profiles:\n  a:\n    token: 123\n", "`token` of the profile `a` must be text"),
        ("profiles:\n  a:\n    verify: maybe\n", "`verify` of the profile `a` must be true or false"),
        ("profiles:\n  1: {}\n", "`profiles` must hold"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError) as error:
        read_profiles(str(path))
    assert message in error.value.message
    assert str(path) in error.value.message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff")
    with pytest.raises(ProfileError, match="cannot be read"):
        choose(str(tmp_path), {})
    with pytest.raises(ProfileError, match="cannot be written"):
        write_profiles(f"{tmp_path}/config.yaml/x", {})
    assert profiles.read_profiles(f"{tmp_path}/config.yaml/x") == {}
