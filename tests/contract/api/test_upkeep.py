"""The routes for keeping house."""

from __future__ import annotations

from dstack.server.db.tables import attempts
from tests.integration.server.test_delete import PREPARE
from tests.support.http import BASE, Asked


def test_the_routes(asked: Asked) -> None:
    world = asked.world
    runner = world.runner()
    name = world.submit(PREPARE, "prepare")
    world.place()
    runner.take()
    runner.log("prepare", b"hello\n")
    runner.finish("prepare")
    (attempt,) = world.rows(attempts)
    log = world.settings.logs / f"{attempt.id.hex}.log"
    assert log.read_bytes() == b"hello\n"
    usage = asked.get("usage")
    assert {"store", "quarantine", "code", "logs", "database", "runs"} == set(usage)
    assert usage["quarantine"] == 0
    world.context.blobs.put(f"quarantine/{'0' * 64}", b"damaged")
    assert (asked.get("usage")["quarantine"], asked.get("usage")["store"]) == (7, usage["store"])
    assert [(run["name"], run["status"], run["tags"]) for run in usage["runs"]] == [(name, "done", [])]
    assert asked.get("usage", limit=0)["runs"] == []
    found = asked.post("runs/delete", {"runs": [name, "x"]})
    assert (found["deleted"], found["refused"][0]["run"]) == ([name], "x")
    assert not log.exists()
    assert asked.get("usage")["runs"] == []
    asked.refused(asked.client.post(f"{BASE}/runs/delete", json={}), 400, "invalid")


def test_names_for_completion(asked: Asked) -> None:
    world = asked.world
    first = world.submit(PREPARE, "prepare")
    world.complete(world.runner())
    world.tag(first, "v1")
    second = world.submit(PREPARE, "prepare", repository="other")
    runs = [{"name": name, "workflow": "prepare", "status": "queued"} for name in (second, first)]
    runs[1]["status"] = "done"
    assert asked.get("names") == {"runs": runs, "tags": ["v1"]}
    assert asked.get("names", repository="other") == {"runs": runs[:1], "tags": []}
    assert asked.get("names", repository="never") == {"runs": [], "tags": []}


def test_a_repository_is_made_known(asked: Asked) -> None:
    ref = {"key": "example.org/a", "name": "a", "aliases": ["git-1"]}
    assert asked.post("repositories", ref) == {"key": "example.org/a", "name": "a"}
    assert asked.post("repositories", ref)["name"] == "a", "and again"
    assert asked.get("tags", repository="git-1")["items"] == []
    asked.refused(asked.client.post(f"{BASE}/repositories", json={}), 400, "invalid")
