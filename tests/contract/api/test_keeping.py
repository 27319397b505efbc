"""The routes for what is kept: rules are shown and set, garbage is told of in frames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dstack.domain.retention import Retention, words
from dstack.server.loops.upkeep import keep_house
from dstack.server.services import delete
from dstack.server.services.gc import GC
from dstack.server.services.named_leases import held
from tests.support.garbage import LATER, noise, uploaded
from tests.support.http import BASE, Asked

URL = f"{BASE}/store/gc"


def frames(asked: Asked, **body: Any) -> list[dict[str, Any]]:
    response = asked.client.post(URL, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-dstack-frames"
    return [json.loads(line) for line in response.text.splitlines()]


def test_garbage_is_told_of_and_then_freed(asked: Asked, tmp_path: Path) -> None:
    world = asked.world
    run = uploaded(world, tmp_path / "a", {"file": noise(1)})
    [pack] = world.context.blobs.list("packs/")
    delete.delete(world.context, [run], force=False, actor=None)
    world.clock.advance(LATER)
    would = frames(asked)
    assert [frame["t"] for frame in would if frame["t"] != "done"] == ["phase"] * 4 + ["end"]
    end = would[-1]
    assert (end["dry_run"], end["why"]) == (True, {"unreferenced": {"packs": 1, "bytes": pack.size}})
    assert {"snapshots", "runs", "chunks", "kept", "held", "held_for", "stays", "written", "deleted", "waiting",
            "waits"} < set(end)  # fmt: skip
    end = frames(asked, dry_run=False, grace=0)[-1]
    assert (end["dry_run"], end["why"]["unreferenced"]["packs"], end["deleted"]["packs"]) == (False, 1, 1)
    keep_house(world.context)
    assert list(world.context.blobs.list("packs/")) == []


@pytest.mark.parametrize("body", [{"grace": -1}, {"grace": 1e12}, {"grace": "1d"}, {"dry_run": "no"}, []])
def test_what_is_no_wish(asked: Asked, body: Any) -> None:
    asked.refused(asked.client.post(URL, json=body), 400, "invalid")


def test_a_second_one_is_told_of_the_first(asked: Asked) -> None:
    with held(asked.world.context, GC, "collecting garbage"):
        [refused] = frames(asked, dry_run=False)
        assert frames(asked)[-1]["t"] == "end", "to look is no change"
    assert refused["t"] == "error"
    assert refused["message"] == "collecting garbage or repairing the store is under way already"
    assert frames(asked, dry_run=False)[-1]["t"] == "end"


def test_rules_are_shown_and_set(asked: Asked) -> None:
    defaults = words(Retention())
    assert asked.get("retention") == {"rules": defaults, "defaults": defaults, "set_by": None, "set_at": None}
    response = asked.client.put(
        f"{BASE}/retention", json={"rules": {"live": "120m", "runs": "90 days"}}, headers={"x-dstack-user": "me"}
    )
    found = asked.ok(response)
    assert found["rules"] == {**defaults, "live": "2h", "runs": "90d"}
    assert (found["set_by"], found["set_at"]) == ("me", asked.world.clock.now())
    assert asked.get("retention") == found


@pytest.mark.parametrize(
    ("rules", "message", "hint"),
    [
        ({"last": "5", "lvie": "2h"}, "there is no rule `lvie`", "did you mean `live`?"),
        ({"last": "5", "xyzzy": "1"}, "there is no rule `xyzzy`", "the rules are live, every, last, partials, runs"),
        ({"last": "5", "runs": "nevr"}, "runs: `nevr` is not a length of time", "did you mean `never`?"),
        ({"live": "2h", "last": "0"}, "last: `0` is not a number of snapshots", "as in last=3"),
    ],
)
def test_one_wrong_rule_changes_none(asked: Asked, rules: dict[str, str], message: str, hint: str) -> None:
    error = asked.refused(asked.client.put(f"{BASE}/retention", json={"rules": rules}), 400, "invalid")
    assert message in error["message"]
    assert hint in error["hint"]
    assert asked.get("retention")["rules"] == words(Retention())


@pytest.mark.parametrize("body", [{}, {"rules": {"last": 5}}, {"rules": "last=5"}, []])
def test_what_is_no_list_of_rules(asked: Asked, body: Any) -> None:
    asked.refused(asked.client.put(f"{BASE}/retention", json=body), 400, "invalid")
