"""What of a shell's environment nobody may see."""

from __future__ import annotations

import pytest

from dstack.domain.credentials import credentials, holds_credential


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("HTTP_PROXY", "http://me:hunter2@host:1", ["hunter2"]),
        ("UV_INDEX_URL", "https://a:p%40ss@one/simple https://t0k3n@two/simple", ["p%40ss", "p@ss", "t0k3n"]),
        ("PIP_INDEX_URL", "https://me:@host/simple", ["me"]),
        ("DATABASE_URL", "postgres://me:p@ss:w@rd@host/db?x=a@b", ["p", "p@ss:w@rd"]),
        ("BROKERS", "amqp://a:one@x,amqp://b:two@y", ["one", "two"]),
        (
            "LIST",
            "amqp://a:first@x:1,b:second@y:2,c:third@z",
            ["first", "first@x:1,b:second@y:2,c:third", "second", "third"],
        ),
        ("JSON", '{"url":"http://a:hunter2@h","mail":"a@b.c"}', ["hunter2", 'hunter2@h","mail":"a']),
        ("HF_TOKEN", "abc", ["abc"]),
        ("HTTP_PROXY", "http://host:1/a@b", []),
        ("PATH", "/usr/bin:/home/me@work/bin", []),
        ("HF_TOKEN", "", []),
    ],
)
def test_values_and_passwords(name: str, value: str, found: list[str]) -> None:
    assert credentials({name: value}) == found
    assert holds_credential(name, value) is bool(found)
