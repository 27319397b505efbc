"""The routes of artifacts beyond the newest."""

from __future__ import annotations

from tests.contract.api.test_routes import done
from tests.support.http import BASE, Asked


def test_history(asked: Asked) -> None:
    name = done(asked, asked.world.runner(), "train")
    answer = asked.get("artifacts/history", run=name)
    newest = asked.get("artifacts", run=name)["items"]
    assert answer["next"] is None
    assert [set(item) for item in answer["items"]] == [set(newest[0]) | {"attempt", "live", "stored"}] * 2
    assert [item["job"] for item in answer["items"]] == ["train", "prepare"]
    assert [item["path"] for item in asked.get("artifacts/history", run=name, job="prepare")["items"]] == ["data"]
    asked.world.tag(name, "good")
    assert asked.get("artifacts/history", tag="good")["items"] == answer["items"]
    for query, status in (
        ({"run": "nobody-1"}, 404),
        ({"tag": "bad"}, 404),
        ({}, 400),
        ({"run": name, "cursor": "x"}, 400),
    ):
        asked.refused(asked.client.get(f"{BASE}/artifacts/history", params=query), status)
