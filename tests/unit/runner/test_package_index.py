from __future__ import annotations

import os
from pathlib import Path

from dstack.runner.package_index import key_material, uv_environment

NO_FILES = {"PIP_CONFIG_FILE": os.devnull, "HOME": "/nonexistent"}


def added(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in uv_environment(environment).items() if name not in environment}


def test_pip_variables_become_uv_variables() -> None:
    environment = {
        **NO_FILES,
        "PIP_INDEX_URL": "https://a/simple",
        "PIP_EXTRA_INDEX_URL": "https://b/simple https://c/simple",
        "PIP_FIND_LINKS": "/usr /nonexistent/wheels https://more",
        "PIP_TRUSTED_HOST": "a b",
        "PIP_CERT": "/ca.pem",
        "PIP_NO_INDEX": "true",
        "PIP_PROXY": "http://proxy:1",
        "https_proxy": "http://own:2",
    }
    assert added(environment) == {
        "UV_DEFAULT_INDEX": "https://a/simple",
        "UV_INDEX": "https://b/simple https://c/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/usr,https://more",
        "UV_INSECURE_HOST": "a b",
        "SSL_CERT_FILE": "/ca.pem",
        "UV_NO_INDEX": "1",
        "HTTP_PROXY": "http://proxy:1",
        "ALL_PROXY": "http://proxy:1",
    }


def test_uv_variables_win_old_names_too() -> None:
    environment = {
        **NO_FILES,
        "PIP_INDEX_URL": "https://pip/simple",
        "UV_INDEX_URL": "https://uv/simple",
        "PIP_FIND_LINKS": "/pip",
        "UV_FIND_LINKS": "/uv",
    }
    assert added(environment) == {}


def test_configuration_files_count_unless_uv_has_its_own(tmp_path: Path) -> None:
    conf = tmp_path / "pip.conf"
    conf.write_text("[global]\nindex-url = https://a/simple\n[install]\nfind_links =\n    /usr\n    /etc\n")
    environment = {"PIP_CONFIG_FILE": str(conf), "HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "none")}
    result = uv_environment(environment)
    assert (result["UV_DEFAULT_INDEX"], result["UV_FIND_LINKS"]) == ("https://a/simple", "/usr,/etc")
    assert uv_environment({**environment, "PIP_INDEX_URL": "https://b"})["UV_DEFAULT_INDEX"] == "https://b"
    (tmp_path / ".config/uv").mkdir(parents=True)
    (tmp_path / ".config/uv/uv.toml").write_text("")
    assert added(environment) == {}


def test_the_key_has_the_index_but_no_password() -> None:
    def key(**environment: str) -> list[str]:
        return key_material(environment)

    assert key(UV_DEFAULT_INDEX="https://me:one@a/simple") == key(UV_DEFAULT_INDEX="https://me:two@a/simple")
    assert key(UV_DEFAULT_INDEX="https://a/simple") != key(UV_DEFAULT_INDEX="https://b/simple")
    assert key(HTTPS_PROXY="x", HOME="/a") == key()
