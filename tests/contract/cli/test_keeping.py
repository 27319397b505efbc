"""`dstack gc` and `dstack retention`: what they ask, what they tell, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract.cli.conftest import Dstack
from tests.support.stub_api import Call, Reply, StubApi, error, frames

GC = "POST …/store/gc"
NOTHING = {"packs": 0, "bytes": 0}
END: dict[str, Any] = {
    "t": "end", "dry_run": True, "snapshots": 0, "runs": [], "chunks": 7, "kept": 5 << 20, "held": 0, "stays": 0,
    "written": 0, "why": {}, "deleted": NOTHING, "waiting": NOTHING, "waits": 0, "held_for": 90_000,
}  # fmt: skip
DEFAULTS = {"live": "1h", "every": "10m", "last": "3", "partials": "7d", "runs": "never"}


def collects(stub: StubApi, *items: dict[str, Any], cut: bool = False) -> None:
    stub.on(GC, lambda _: Reply(stream=frames({"t": "phase", "what": "marking"}, {"t": "done"}, *items), cut=cut))


class TestGc:
    def test_without_yes_it_only_looks(self, stub: StubApi, dstack: Dstack) -> None:
        why = {"unreferenced": {"packs": 2, "bytes": 3 << 20}, "half-dead": {"packs": 1, "bytes": 1 << 20}}
        collects(stub, {**END, "why": why, "held": 2 << 20, "snapshots": 4, "runs": ["old-1"]})
        done = dstack("gc")
        assert [line.split()[:3] for line in done.out.splitlines()] == [
            ["WHAT", "SIZE", "WHY"], ["2", "packs", "3MiB"], ["1", "pack", "1MiB"],
        ]  # fmt: skip
        assert "deleted runs, thinned snapshots" in done.out
        assert done.err == (
            "The rules of the project would let go of 4 snapshots and 1 run (dstack retention).\n"
            "2MiB that nothing refers to stay for now: saved, or asked about by a save, in the last 1 day.\n"
            "4MiB would be freed, 5MiB are in use. To do so: dstack gc -y\n"
        )
        assert done.code == 0
        [call] = stub.named(GC)
        assert call.json == {"dry_run": True, "grace": None, "despite_damage": False}

    def test_with_yes_it_frees(self, stub: StubApi, dstack: Dstack) -> None:
        found = {"packs": 1, "bytes": 3 << 20}
        more = {"dry_run": False, "why": {"unreferenced": found}, "deleted": {"packs": 1, "bytes": 1 << 20}}
        collects(stub, {**END, **more, "waiting": found, "waits": 7200, "written": 2 << 20, "snapshots": 1})
        done = dstack("gc", "-y", "--grace", "90m", "--despite-damage")
        assert done.err == (
            "The rules of the project let go of 1 snapshot (dstack retention).\n"
            "1MiB deleted.\n"
            "3MiB go by themselves within 2 hours, when no download can be reading them.\n"
            "2MiB were packed anew for it.\n"
        )
        [call] = stub.named(GC)
        assert call.json == {"dry_run": False, "grace": 5400.0, "despite_damage": True}

    @pytest.mark.parametrize(("damaged", "told"), [(1, "1 pack is"), (3, "3 packs are")])
    def test_damage_that_it_came_upon(self, stub: StubApi, dstack: Dstack, damaged: int, told: str) -> None:
        collects(stub, {**END, "dry_run": False, "damaged": damaged})
        assert f"{told} damaged: dstack verify --all\n" in dstack("gc", "-y").err

    def test_nothing_to_free(self, stub: StubApi, dstack: Dstack) -> None:
        collects(stub, END)
        done = dstack("gc")
        assert (done.code, done.out, done.err) == (0, "", "There is nothing to free.\n")

    def test_as_data(self, stub: StubApi, dstack: Dstack) -> None:
        collects(stub, END)
        done = dstack("gc", "--json")
        assert (json.loads(done.out), done.err) == ([{name: END[name] for name in END if name != "t"}], "")

    @pytest.mark.parametrize("grace", ["soon", "-1h", "1 fortnight"])
    def test_a_grace_that_is_no_length_of_time(self, stub: StubApi, dstack: Dstack, grace: str) -> None:
        done = dstack("gc", "--grace", grace)
        assert (done.code, stub.calls) == (2, [])
        assert f"--grace: `{grace}` is not a length of time: as in 90s, 10m, 1h, 7d or 4w" in done.err

    def test_a_damaged_store_is_named(self, stub: StubApi, dstack: Dstack) -> None:
        found = [{"id": f"{number:064x}", "why": f"object {number} is damaged"} for number in range(7)]
        collects(stub, {"t": "damaged", "objects": found, "more": 10})
        done = dstack("gc", "-y")
        assert (done.code, done.out) == (1, "")
        assert "nothing was freed: the store is damaged" in done.err
        assert "object 4 is damaged\n  and 12 more\n" in done.err
        assert "dstack verify --all" in done.err

    def test_what_the_server_says_no_to(self, stub: StubApi, dstack: Dstack) -> None:
        collects(stub, {"t": "error", "message": "somebody collects already", "hint": "wait for them"})
        done = dstack("gc", "-y", "--json")
        assert (done.code, done.out) == (2, "")
        assert "somebody collects already\n  hint: wait for them" in done.err

    @pytest.mark.parametrize("cut", [True, False], ids=["connection", "end"])
    def test_cut_short(self, stub: StubApi, dstack: Dstack, cut: bool) -> None:
        collects(stub, cut=cut)
        done = dstack("gc", "-y")
        assert (done.code, done.out) == (2, "")
        assert "it was cut short" in done.err
        assert "start it again: it goes on from there" in done.err


class Rules:
    """A project's rules, kept by the stub."""

    def __init__(self, stub: StubApi) -> None:
        self.given: list[dict[str, str]] = []
        self._body: dict[str, Any] = {"rules": DEFAULTS, "defaults": DEFAULTS, "set_by": None, "set_at": None}
        stub.on("GET …/retention", lambda _: Reply(body=self._body))
        stub.on("PUT …/retention", self._set)

    def _set(self, call: Call) -> Reply:
        self.given.append(call.json["rules"])
        rules = self._body["rules"] | call.json["rules"]
        self._body = {**self._body, "rules": rules, "set_by": "me", "set_at": 1_000_000}
        return Reply(body=self._body)


@pytest.fixture
def rules(stub: StubApi) -> Rules:
    return Rules(stub)


class TestRetention:
    def test_it_is_shown(self, rules: Rules, dstack: Dstack) -> None:
        done = dstack("retention")
        assert [line.split()[:2] for line in done.out.splitlines()] == [
            ["RULE", "VALUE"], *([name, value] for name, value in DEFAULTS.items()),
        ]  # fmt: skip
        assert (done.code, done.err) == (0, "")
        [shown] = json.loads(dstack("retention", "--json").out)
        assert shown["defaults"] == DEFAULTS

    def test_it_is_set(self, rules: Rules, dstack: Dstack) -> None:
        done = dstack("retention", "set", "live=2h", "runs = 90d")
        assert (done.code, rules.given) == (0, [{"live": "2h", "runs": "90d"}])
        shown = {line.split()[0]: line.split()[1:4] for line in done.out.splitlines()}
        assert (shown["live"][:2], shown["runs"][:2]) == (["2h", "1h"], ["90d", "never"]), "with what it was"
        assert shown["last"] == ["3", "and", "this"]
        assert done.err.startswith("set 1970-01-01")
        assert done.err.endswith(" by me\n")
        [found] = json.loads(dstack("retention", "set", "last=5", "--json").out)
        assert (found["rules"]["last"], found["rules"]["live"], found["set_by"]) == ("5", "2h", "me")

    def test_what_is_no_rule(self, rules: Rules, dstack: Dstack) -> None:
        done = dstack("retention", "set", "live")
        assert (done.code, "`live` is no RULE=VALUE: write `live=…`" in done.err) == (2, True)
        assert dstack("retention", "set").code == 2
        assert rules.given == []

    def test_what_the_server_refuses(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("PUT …/retention", error(400, "invalid", "there is no rule `lvie`", "did you mean `live`?"))
        done = dstack("retention", "set", "lvie=2h")
        assert (done.code, done.out) == (2, "")
        assert "there is no rule `lvie`\n  hint: did you mean `live`?" in done.err

    def test_a_near_word(self, dstack: Dstack) -> None:
        done = dstack("retention", "sett", "live=2h")
        assert (done.code, "did you mean" in done.err.lower(), "set" in done.err) == (2, True, True)
