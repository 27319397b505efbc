"""Where packages come from: the user's settings for pip, told to uv, which does not read them.

uv's own settings come first: `UV_*` variables, then `PIP_*` variables, then a `uv.toml`, then `pip.conf`.
Sources: pip's "Configuration" page (file locations and their order), uv's "Environment variables" page.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

# pip option → uv variable. Lists are split by white space in pip; find-links are joined by commas in uv.
_MAPPED = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "constraint": "UV_CONSTRAINT",
    "no-index": "UV_NO_INDEX",  # no variable of uv's (yet): see `install_options`
}
_OLD_NAMES = {"UV_DEFAULT_INDEX": "UV_INDEX_URL", "UV_INDEX": "UV_EXTRA_INDEX_URL"}
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_KEYED = (
    "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX",
    "UV_INDEX_STRATEGY", "UV_PRERELEASE", "UV_RESOLUTION", "UV_EXCLUDE_NEWER", "UV_NO_BINARY", "UV_ONLY_BINARY",
    "UV_TORCH_BACKEND", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_CONFIG_FILE",
)  # fmt: skip
_FILES = ("UV_CONSTRAINT", "UV_OVERRIDE", "UV_CONFIG_FILE")
_CREDENTIALS = re.compile(r"(://)[^/@\s]+@")


def uv_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with what uv needs to install from where pip would."""
    result = dict(environment)
    options = {} if _has_uv_config(environment) else _pip_files(environment)
    options |= {
        name[4:].lower().replace("_", "-"): value for name, value in environment.items() if name.startswith("PIP_")
    }
    for option, variable in _MAPPED.items():
        given = variable in environment or _OLD_NAMES.get(variable, variable) in environment
        if option in options and not given:
            result[variable] = _value(option, options[option])
    if "UV_INDEX" in result and "UV_INDEX" not in environment:
        # pip picks the best version among all its indexes, and so do people who configured it that way.
        result.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    if "proxy" in options:
        for name in _PROXIES:
            if name not in environment and name.lower() not in environment:
                result[name] = options["proxy"]
    return result


def install_options(environment: Mapping[str, str]) -> list[str]:
    """Options of `uv pip install` for what uv has no variable for; `environment` as `uv_environment` gives it."""
    return ["--no-index"] if _true(environment.get("UV_NO_INDEX", "")) else []


def key_material(environment: Mapping[str, str]) -> list[str]:
    """What of `uv_environment(…)` decides which packages are installed; passwords in addresses are left out."""
    parts: list[str] = []
    for name in _KEYED:
        value = environment.get(name)
        if value:
            parts.append(f"{name}=" + _CREDENTIALS.sub(r"\1", value))
            if name in _FILES:
                parts.extend(_text(path) for path in value.split())
    return parts


def _value(option: str, value: str) -> str:
    words = value.split()
    if option == "no-index":
        return "1" if _true(value) else ""
    if option == "find-links":  # pip passes over folders that are not there, uv fails
        return ",".join(word for word in words if not word.startswith("/") or os.path.exists(word))
    return " ".join(words)


def _true(value: str) -> bool:
    return value.lower() not in ("", "0", "false", "no", "off")


def _has_uv_config(environment: Mapping[str, str]) -> bool:
    config = environment.get("XDG_CONFIG_HOME") or os.path.join(_home(environment), ".config")
    return "UV_CONFIG_FILE" in environment or any(
        os.path.exists(path) for path in (os.path.join(config, "uv/uv.toml"), "/etc/uv/uv.toml")
    )


def _pip_files(environment: Mapping[str, str]) -> dict[str, str]:
    """Options of pip's configuration files, later files winning."""
    home = _home(environment)
    config = environment.get("XDG_CONFIG_HOME") or f"{home}/.config"
    shared = environment.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    paths = [f"{folder}/pip/pip.conf" for folder in shared.split(":")]
    paths += ["/etc/pip.conf", f"{home}/.pip/pip.conf", f"{config}/pip/pip.conf"]
    if sys.platform == "darwin":
        paths += [f"{home}/Library/Application Support/pip/pip.conf"]
    if "VIRTUAL_ENV" in environment:
        paths.append(f"{environment['VIRTUAL_ENV']}/pip.conf")
    if "PIP_CONFIG_FILE" in environment:  # os.devnull there means: no files at all
        named = environment["PIP_CONFIG_FILE"]
        paths = [] if named == os.devnull else [*paths, named]
    parser = configparser.RawConfigParser()
    parser.read([path for path in paths if os.path.isfile(path)], encoding="utf-8")
    sections = [name for name in ("global", "install") if parser.has_section(name)]
    return {option.replace("_", "-"): value for section in sections for option, value in parser.items(section)}


def _home(environment: Mapping[str, str]) -> str:
    return environment.get("HOME") or os.path.expanduser("~")


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
