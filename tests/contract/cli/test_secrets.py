"""`dstack secrets`: what goes to the server, where the value comes from, and that it is nowhere to be seen."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contract.cli.conftest import Done, Dstack
from tests.support.stub_api import Reply, StubApi, error

TOKEN: dict[str, Any] = {"name": "TOKEN", "updated_at": 1, "by": "me"}
VALUE = "hf_s3cret-value"


class Stdin(io.TextIOWrapper):
    """Standard input with these bytes, as a terminal or not."""

    def __init__(self, content: bytes, *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8", errors="surrogateescape")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda content: monkeypatch.setattr(sys, "stdin", Stdin(content))


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A person at a terminal who answers questions with lines of `answers`, and types `value` where it is hidden."""
    import getpass

    def typed(value: str | BaseException, answers: bytes = b"") -> None:
        def hidden(prompt: str) -> str:
            if isinstance(value, BaseException):
                raise value
            return value

        monkeypatch.setattr("os.isatty", lambda fd: fd in (0, 2))
        monkeypatch.setattr(sys, "stdin", Stdin(answers, terminal=True))
        monkeypatch.setattr(getpass, "getpass", hidden)

    return typed


@pytest.fixture
def there(stub: StubApi) -> StubApi:
    """A server that has one secret and takes everything."""
    stub.on("GET …/secrets", Reply(body={"items": [TOKEN], "next": None}))
    stub.on("POST …/secrets", Reply(201, {**TOKEN, "name": "NEW"}))
    stub.on("PUT …/secrets/TOKEN", Reply(body=TOKEN))
    stub.on("DELETE …/secrets/TOKEN", Reply(body=TOKEN))
    return stub


def unseen(done: Done) -> Done:
    assert VALUE not in done.out + done.err
    return done


def sent(stub: StubApi, method: str = "POST …/secrets") -> Any:
    (call,) = stub.named(method)
    assert VALUE not in call.path + str(call.query) + str(call.headers)
    return call.json


def test_list(there: StubApi, dstack: Dstack, repository: Path) -> None:
    assert dstack("secrets", "list").out.splitlines()[0].split() == ["NAME", "UPDATED", "BY"]
    assert json.loads(dstack("secrets", "list", "--json").out) == [TOKEN]
    assert there.calls[0].query == {"repository": str(repository)}


def test_an_empty_list(stub: StubApi, dstack: Dstack) -> None:
    stub.on("GET …/secrets", Reply(body={"items": [], "next": None}))
    assert "dstack secrets add NAME" in dstack("secrets", "list").err


class TestWhereTheValueComesFrom:
    def test_typed_and_not_shown(self, there: StubApi, dstack: Dstack, typed: Any) -> None:
        typed(VALUE)
        done = unseen(dstack("secrets", "add", "NEW"))
        assert (done.code, done.err) == (0, "NEW added; a workflow names it as ${{ secrets.NEW }}\n")
        assert sent(there)["value"] == VALUE

    @pytest.mark.parametrize("words", [["NEW"], ["NEW", "-"]])
    def test_from_standard_input(self, there: StubApi, dstack: Dstack, piped: Any, words: list[str]) -> None:
        piped(VALUE.encode() + b"\n")
        unseen(dstack("secrets", "add", *words))
        assert sent(there)["value"] == VALUE

    def test_a_key_keeps_its_last_line_end(self, there: StubApi, dstack: Dstack, piped: Any) -> None:
        piped(b"-----BEGIN KEY-----\nabc\n-----END KEY-----\n")
        dstack("secrets", "add", "NEW")
        assert sent(there)["value"] == "-----BEGIN KEY-----\nabc\n-----END KEY-----\n"

    def test_an_argument_with_a_warning(self, there: StubApi, dstack: Dstack) -> None:
        done = unseen(dstack("secrets", "add", "NEW", VALUE))
        assert "history" in done.err
        assert sent(there)["value"] == VALUE

    def test_one_that_looks_like_an_option_is_not_repeated(self, there: StubApi, dstack: Dstack) -> None:
        done = dstack("secrets", "add", "NEW", f"--{VALUE}")
        assert (done.code, "behind `--`" in unseen(done).err) == (2, True)
        dstack("secrets", "add", "NEW", "--", f"--{VALUE}")
        assert sent(there)["value"] == f"--{VALUE}"

    @pytest.mark.parametrize("nothing", ["", EOFError()])
    def test_nothing_typed_changes_nothing(self, there: StubApi, dstack: Dstack, typed: Any, nothing: Any) -> None:
        typed(nothing)
        done = dstack("secrets", "update", "TOKEN")
        assert (done.code, "no value was given" in done.err) == (2, True)
        assert not there.named("PUT …/secrets/TOKEN")

    def test_what_is_no_text(self, there: StubApi, dstack: Dstack, piped: Any) -> None:
        piped(b"\xff\xfe")
        done = dstack("secrets", "add", "NEW")
        assert (done.code, "not UTF-8" in done.err, "base64" in done.err) == (2, True, True)

    def test_a_value_that_is_found_everywhere(self, there: StubApi, dstack: Dstack, piped: Any) -> None:
        piped(b"abc")
        assert "not masked in logs" in dstack("secrets", "add", "NEW").err


class TestOverwriting:
    def test_one_that_exists_is_asked_for(self, there: StubApi, dstack: Dstack, typed: Any) -> None:
        typed(VALUE, b"n\n")
        done = unseen(dstack("secrets", "add", "TOKEN"))
        assert (done.code, "left as it is" in done.err) == (1, True)
        assert not there.named("POST …/secrets")
        typed(VALUE, b"y\n")
        dstack("secrets", "add", "TOKEN")
        assert sent(there)["overwrite"] is True

    def test_yes(self, there: StubApi, dstack: Dstack, piped: Any, repository: Path) -> None:
        piped(VALUE.encode())
        unseen(dstack("secrets", "add", "-y", "TOKEN"))
        body = sent(there)
        assert (body["name"], body["overwrite"], body["repository"]["key"]) == ("TOKEN", True, str(repository))

    def test_without_a_terminal_it_does_not_guess(self, there: StubApi, dstack: Dstack, piped: Any) -> None:
        piped(VALUE.encode())
        done = unseen(dstack("secrets", "add", "TOKEN"))
        assert (done.code, "dstack secrets add -y TOKEN" in done.err) == (2, True)

    def test_one_that_somebody_else_has_just_added(self, stub: StubApi, dstack: Dstack, piped: Any) -> None:
        stub.on("GET …/secrets", Reply(body={"items": [], "next": None}))
        stub.on("POST …/secrets", error(409, "conflict", "the secret `NEW` exists"))
        piped(VALUE.encode())
        done = unseen(dstack("secrets", "add", "NEW"))
        assert (done.code, "dstack secrets add -y NEW" in done.err) == (2, True)


def test_update(there: StubApi, dstack: Dstack, piped: Any) -> None:
    piped(VALUE.encode())
    done = unseen(dstack("secrets", "update", "TOKEN", "--json"))
    assert json.loads(done.out) == [TOKEN]
    assert sent(there, "PUT …/secrets/TOKEN")["value"] == VALUE


def test_delete(there: StubApi, dstack: Dstack, typed: Any, piped: Any) -> None:
    piped(b"")
    done = dstack("secrets", "delete", "TOKEN")
    assert (done.code, "dstack secrets delete -y TOKEN" in done.err) == (2, True)
    typed("", b"\n")
    assert dstack("secrets", "delete", "TOKEN").code == 1
    assert not there.named("DELETE …/secrets/TOKEN")
    typed("", b"yes\n")
    assert dstack("secrets", "delete", "TOKEN").err.endswith("TOKEN deleted\n")
    assert dstack("secrets", "delete", "-y", "TOKEN", "--json").code == 0


def test_outside_of_a_repository(dstack: Dstack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = dstack("secrets", "list")
    assert (done.code, "no .dstack/workflows.yaml" in done.err) == (2, True)
