"""Which server commands talk to: what the environment says, else a profile of `config.yaml` in the home, else its own.

    profiles:
      default:                      # used where nothing else is said
        server: https://dstack.example.org
        token: ...                  # the file is readable by its owner only
        project: main
      staging: {server: "http://10.0.0.5:3000", verify: false}

The file is read before every command, so what `dstack config` writes is read without a YAML parser; what a person wrote
in another style is given to one.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypedDict

    class Profile(TypedDict, total=False):
        """One server and how to reach it. `verify` false: its certificate is not checked."""

        server: str
        token: str
        project: str
        verify: bool


DEFAULT = "default"
LOCAL = "local"
"""As a server's address: this home's own, whatever the profiles say."""
KEYS = ("server", "token", "project", "verify")
_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:+=~")


class ProfileError(Exception):
    """The profiles cannot be read or written. `hint` says what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Target:
    """The server of a command: an empty `address` is this home's own.

    `origin` says who chose it, for messages; `profile` is the profile's name, empty where none did.
    """

    def __init__(
        self, address: str, token: str, project: str, origin: str, *, verify: bool = True, profile: str = ""
    ) -> None:
        self.address = "" if address == LOCAL else address
        self.token = token
        self.project = project
        self.origin = origin
        self.verify = verify
        self.profile = profile


def choose(home: str, environ: Mapping[str, str] = os.environ) -> Target:
    """What the variables DSTACK_SERVER, DSTACK_TOKEN, DSTACK_PROJECT and DSTACK_PROFILE, and the file, come to.

    Raises ProfileError for a file that cannot be read and a profile that is not there.
    """
    address = environ.get("DSTACK_SERVER", "")
    token, project = environ.get("DSTACK_TOKEN", ""), environ.get("DSTACK_PROJECT", "")
    if address:
        # A profile's token belongs to that profile's server.
        return Target(address, token, project or "main", f"DSTACK_SERVER={address}")
    path = config_path(home, environ)
    name = environ.get("DSTACK_PROFILE", "")
    profiles = read_profiles(path)
    profile = profiles.get(name or DEFAULT)
    if profile is None:
        if name and name != LOCAL:
            known = ", ".join(f"`{other}`" for other in profiles) or "none"
            raise ProfileError(f"there is no profile `{name}` in {path}", f"profiles: {known}; dstack config {name}")
        return Target("", token, project or "main", "")
    return Target(
        profile.get("server", ""),
        token or profile.get("token", ""),
        project or profile.get("project", "") or "main",
        f"the profile `{name or DEFAULT}` of {path}",
        verify=profile.get("verify", True),
        profile=name or DEFAULT,
    )


def config_path(home: str, environ: Mapping[str, str] = os.environ) -> str:
    return environ.get("DSTACK_CONFIG") or f"{home}/config.yaml"


def read_profiles(path: str) -> dict[str, Profile]:
    """The profiles by name; none where there is no file. Raises ProfileError."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path} cannot be read: {error}") from error
    plain = _read_plain(text)
    return plain if plain is not None else _read_yaml(path, text)


def write_profiles(path: str, profiles: Mapping[str, Profile]) -> None:
    """Replace the file, readable by its owner only. Raises ProfileError."""
    lines = ["profiles:\n"] if profiles else ["profiles: {}\n"]
    for name, profile in profiles.items():
        lines.append(f"  {_spelled(name)}:\n")
        lines += (f"    {key}: {_spelled(profile.get(key, ''))}\n" for key in KEYS if key in profile)
    own = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        with open(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.writelines(lines)
        os.replace(own, path)
    except OSError as error:
        raise ProfileError(f"{path} cannot be written: {error.strerror or error}") from error


def _spelled(value: str | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value and set(value) <= _BARE and value[0].isalpha() and value.lower() not in _WORDS and value[-1] != ":":
        return value
    import yaml

    return yaml.safe_dump(value, default_style='"', width=float("inf"), allow_unicode=True).strip()


_WORDS = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
"""What YAML 1.1 takes for something else than text."""


def _read_plain(text: str) -> dict[str, Profile] | None:
    """The profiles of a file as `write_profiles` writes it; None for one that takes a YAML parser."""
    profiles: dict[str, dict[str, str | bool]] = {}
    profile: dict[str, str | bool] = {}
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines or lines[0].rstrip() != "profiles:":
        return None
    for line in lines[1:]:
        key, colon, value = line.strip().partition(":")
        value = value.strip()
        if not colon or not _is_bare(key):
            return None
        if line.startswith("  ") and line[2] != " " and not value and key not in profiles:
            profile = profiles[key] = {}
        elif line.startswith("    ") and line[4] != " " and profiles and key in KEYS and key not in profile:
            flag = {"true": True, "false": False}.get(value)
            if (flag is not None) != (key == "verify"):
                return None
            if flag is None and not _is_bare(value):
                return None
            profile[key] = value if flag is None else flag
        else:
            return None
    return profiles  # pyright: ignore[reportReturnType] - keys and types were checked


def _is_bare(text: str) -> bool:
    """Whether `text` is written without quotes."""
    return bool(text) and set(text) <= _BARE and _spelled(text) == text


def _read_yaml(path: str, text: str) -> dict[str, Profile]:
    import yaml

    try:
        content: object = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ProfileError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    found = _mapping(path, "the file", content if content is not None else {})
    for key in found:
        if key != "profiles":
            raise ProfileError(f"{path}: unknown key `{key}`", "the file has one key, `profiles`")
    profiles = _mapping(path, "`profiles`", found.get("profiles") or {})
    return {name: _profile(path, name, value) for name, value in profiles.items()}


def _profile(path: str, name: str, value: object) -> Profile:
    profile: dict[str, object] = {}
    for key, content in _mapping(path, f"the profile `{name}`", value if value is not None else {}).items():
        if key not in KEYS:
            raise ProfileError(f"{path}: unknown key `{key}` of the profile `{name}`", f"known: {', '.join(KEYS)}")
        wanted = bool if key == "verify" else str
        if not isinstance(content, wanted):
            kind = "true or false" if wanted is bool else "text"
            raise ProfileError(f"{path}: `{key}` of the profile `{name}` must be {kind}")
        profile[key] = content
    return profile  # pyright: ignore[reportReturnType] - keys and types were checked


def _mapping(path: str, what: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):  # pyright: ignore[reportUnknownVariableType] - YAML
        raise ProfileError(f"{path}: {what} must hold `name: value` lines")
    return value  # pyright: ignore[reportUnknownVariableType] - checked above
