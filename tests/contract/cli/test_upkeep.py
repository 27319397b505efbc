"""`dstack rm`, `prune` and `du`: what they ask, and what they tell."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.contract.cli.conftest import Dstack, a_run
from tests.contract.cli.test_commands import ask
from tests.support.stub_api import Call, Reply, StubApi

DELETE = "POST …/runs/delete"
DAY = 86_400 * 10**6


@pytest.fixture
def runs(stub: StubApi) -> list[dict[str, Any]]:
    """Runs that the server has; deleting refuses what is not finished or tagged."""
    now = int(time.time() * 1e6)
    found = [
        a_run("new-1", submitted_at=now - DAY),
        a_run("busy-1", "running", submitted_at=now - DAY),
        a_run("best-1", tags=["v1"], submitted_at=now - 2 * DAY),
        a_run("old-1", "failed", submitted_at=now - 40 * DAY, finished_at=now - 39 * DAY),
    ]

    def delete(call: Call) -> Reply:
        wanted, force = call.json["runs"], call.json["force"]
        stays = {"busy-1"} if force else {"busy-1", "best-1"}
        refused = [{"run": name, "why": f"{name} stays", "hint": "wait"} for name in wanted if name in stays]
        return Reply(body={"deleted": [name for name in wanted if name not in stays], "refused": refused})

    stub.on("GET …/runs", Reply(body={"items": found, "next": None}))
    stub.on(DELETE, delete)
    return found


def asked_for(stub: StubApi) -> list[str]:
    return [name for call in stub.named(DELETE) for name in call.json["runs"]]


@pytest.mark.usefixtures("runs")
class TestRm:
    def test_named_runs(self, stub: StubApi, dstack: Dstack) -> None:
        done = dstack("rm", "-y", "new-1", "busy-1")
        assert (done.code, done.out) == (1, "")
        assert done.err == "new-1 deleted\nnot deleted: busy-1 stays\n  hint: wait\n"
        done = dstack("rm", "-y", "--json", "new-1")
        assert json.loads(done.out) == [{"run": "new-1", "deleted": True, "why": None, "hint": None}]
        assert done.code == 0

    def test_all_that_may_go(self, stub: StubApi, dstack: Dstack, repository: Path) -> None:
        assert dstack("rm", "--all", "-y").code == 0
        assert stub.calls[0].query == {"repository": str(repository)}
        assert asked_for(stub) == ["new-1", "old-1"]
        dstack("rm", "-a", "-y", "--force")
        assert asked_for(stub)[2:] == ["new-1", "best-1", "old-1"]
        assert stub.named(DELETE)[1].json["force"]

    def test_it_asks(self, stub: StubApi, dstack: Dstack, monkeypatch: pytest.MonkeyPatch) -> None:
        done = dstack("rm", "new-1")
        assert (done.code, "not deleted without asking" in done.err) == (2, True)
        ask("n\n", monkeypatch)
        assert dstack("rm", "new-1").code == 1
        assert not stub.named(DELETE)
        ask("y\n", monkeypatch)
        done = dstack("rm", "new-1")
        assert (done.code, done.err) == (0, "Delete 1 run (new-1)? [y/N] new-1 deleted\n")

    def test_all_or_some(self, dstack: Dstack) -> None:
        assert dstack("rm").code == 2
        assert dstack("rm", "-a", "new-1").code == 2

    def test_many_go_in_several_requests(self, stub: StubApi, dstack: Dstack) -> None:
        dstack("rm", "-y", *(f"run-{number}" for number in range(450)))
        assert [len(call.json["runs"]) for call in stub.named(DELETE)] == [200, 200, 50]


@pytest.mark.usefixtures("runs")
class TestPrune:
    def test_without_yes_it_only_lists(self, stub: StubApi, dstack: Dstack, repository: Path) -> None:
        done = dstack("prune")
        assert [line.split()[0] for line in done.out.splitlines()] == ["RUN", "new-1", "old-1"]
        assert done.err == "2 runs would be deleted. To do so: dstack prune -y\n"
        assert stub.calls[0].query == {"repository": str(repository)}
        assert [run["name"] for run in json.loads(dstack("prune", "--json").out)] == ["new-1", "old-1"]
        assert not stub.named(DELETE)

    def test_with_yes_they_go(self, stub: StubApi, dstack: Dstack) -> None:
        done = dstack("prune", "-y", "-a", "--json")
        assert [item["run"] for item in json.loads(done.out)] == asked_for(stub) == ["new-1", "old-1"]
        assert stub.calls[0].query == {}

    def test_only_old_ones(self, stub: StubApi, dstack: Dstack) -> None:
        dstack("prune", "--before", "30d", "-y")
        assert asked_for(stub) == ["old-1"]
        assert "nothing to prune" in dstack("prune", "--before", "100d").err


class TestDu:
    USED = {  # noqa: RUF012
        "store": 3 << 20, "code": 9, "logs": 2048, "database": 4096,
        "runs": [{"name": "big-1", "workflow": "train", "repository_name": "p", "status": "done", "tags": ["v1"],
                  "submitted_at": 1, "stored": 1 << 20, "logs": 1024}],
    }  # fmt: skip

    def test_of_another_server(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/usage", Reply(body=self.USED))
        lines = [line.split() for line in dstack("du", "-n", "7").out.splitlines()]
        assert [line[:2] for line in lines[:4]] == [
            ["WHAT", "SIZE"], ["store", "3MiB"], ["logs", "2KiB"], ["database", "4KiB"],
        ]  # fmt: skip
        assert lines[-1] == ["big-1", "train", "p", "1MiB", "1KiB", "1970-01-01", "v1"]
        assert stub.calls[0].query == {"limit": "7"}

    def test_what_a_repair_has_set_aside(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/usage", Reply(body={**self.USED, "quarantine": 5 << 20}))
        [line] = [line for line in dstack("du").out.splitlines() if line.startswith("quarantine")]
        assert line.split()[1] == "5MiB"
        assert line.endswith("quarantine: damaged packs that a repair has set aside; you may delete them")
        stub.on("GET …/usage", Reply(body={**self.USED, "quarantine": 0}))
        assert "quarantine" not in dstack("du").out

    def test_as_data(self, stub: StubApi, dstack: Dstack) -> None:
        stub.on("GET …/usage", Reply(body=self.USED))
        found = json.loads(dstack("du", "--json").out)
        assert [(item["kind"], item["size"]) for item in found] == [
            ("store", 3 << 20), ("logs", 2048), ("database", 4096), ("run", (1 << 20) + 1024),
        ]  # fmt: skip
        assert found[-1]["name"] == "big-1"
