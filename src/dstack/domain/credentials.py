"""What of an environment is a credential: told by the names of variables, and by addresses that hold a password."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?|AUTH)$")
_ADDRESS = re.compile(r"://(?P<user>[^/@\s:]*)(?::(?P<password>[^/\s]*))?@")
"""Such as that of a private package index, a proxy, or a database (RFC 3986, 3.2.1); `@` may stand in the password."""
_OF_ANOTHER_HOST = re.compile(r",[^/@\s:,\"']*:([^/@\s,\"']+)(?=@|$)")
"""In an address of several hosts, as some brokers take it, each with a user."""


def names_credential(name: str) -> bool:
    """Whether a variable of this name likely holds a credential: `HF_TOKEN`, `APIKEY`, not `MAX_TOKENS`, `AUTHOR`."""
    return any(_NAME.search(part) for part in name.upper().split("_"))


def holds_credential(name: str, value: str) -> bool:
    return bool(value) and (names_credential(name) or _ADDRESS.search(value) is not None)


def credentials(environment: Mapping[str, str]) -> list[str]:
    """What nobody may see: values as a whole, of addresses the password, or the user that stands for a token alone."""
    found: set[str] = set()
    for name, value in environment.items():
        if names_credential(name):
            found.add(value)
        for match in _ADDRESS.finditer(value):
            word = match["password"] or match["user"]
            # Where it ends is not sure: an `@` may be part of it, or begin what stands behind it.
            words = {word, word.partition("@")[0], *_OF_ANOTHER_HOST.findall(word)}
            found |= {*words, *map(unquote, words)}
    return sorted(found - {""})
