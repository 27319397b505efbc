"""The routes of artifacts beyond the newest."""

from __future__ import annotations

from pathlib import Path

from dstack.server.services.catalog import DatabaseCatalog
from dstack.snapshots.capture import save
from dstack.snapshots.store import SnapshotStore
from tests.contract.api.test_routes import done
from tests.support.http import BASE, Asked
from tests.support.world import REPOSITORY


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


def test_an_upload(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up/x").write_text("x")
    context = asked.world.context
    saved = save(tmp_path / "up", SnapshotStore(context.blobs, DatabaseCatalog(context.database, context.project_id)))
    body = {
        "artifacts": [{"path": "data", "manifest_id": saved.manifest_id.hex(), "stored": 9, "size": 10**9}],
        "repository": {"key": REPOSITORY, "name": "digits"},
        "tags": ["v1"],
        "later": 1,
    }
    run = asked.post("uploads", body, 201, idempotency_key="once")
    assert (run["status"], run["tags"]) == ("done", ["v1"])
    assert asked.post("uploads", body, 200, idempotency_key="once")["name"] == run["name"]
    [item] = asked.get("artifacts/history", run=run["name"])["items"]
    assert (item["size"], item["stored"], item["attempt"], item["live"]) == (1, 9, 0, False), "its size is looked up"
    asked.refused(asked.client.post(f"{BASE}/uploads", json={**body, "artifacts": []}), 400, "invalid")
    asked.refused(asked.client.post(f"{BASE}/uploads", json={}), 400, "invalid")


def test_lineage(asked: Asked) -> None:
    runner = asked.world.runner()
    name = done(asked, runner, "train")
    found = asked.get("lineage", run=name)
    assert (found["roots"], found["links"], found["cut"]) == ([name], [], False)
    asked.world.tag(name, "good")
    user = asked.world.submit(
        'workflows: [{name: use, provider: bash, commands: ["true"], deps: ["train:good"]}]', "use"
    )
    [link] = asked.get("lineage", tag="good", repository=REPOSITORY)["links"]
    assert {key: link[key] for key in ("direction", "depth", "run", "step", "source", "path", "tag", "status")} == {
        "direction": "use", "depth": 1, "run": user, "step": "use", "source": name, "path": "model", "tag": "good",
        "status": "queued",
    }  # fmt: skip
    assert (link["job"], link["workflow"], link["source_status"], link["partial"]) == ("train", "train", "done", False)
    for query, status in (({"run": "nobody-1"}, 404), ({"tag": "bad"}, 404), ({}, 400)):
        asked.refused(asked.client.get(f"{BASE}/lineage", params=query), status)
