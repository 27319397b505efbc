"""`dstack runners`."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from tests.contract.cli.conftest import Dstack
from tests.support.stub_api import Reply, StubApi

GIB = 1 << 30


def a_runner(name: str = "box", **more: Any) -> dict[str, Any]:
    return {
        "id": "runner_" + "0" * 32, "name": name, "status": "online", "status_text": "Online", "draining": False,
        "version": "1", "slots": 4, "cpu": 4, "memory": 16 * GIB, "gpus": [], "jobs": [],
        "registered_at": 1, "heartbeat_at": int(time.time() * 1e6), "lost_at": None, **more,
    }  # fmt: skip


def test_the_table(stub: StubApi, dstack: Dstack) -> None:
    cards = [{"name": "V100", "memory": 16 * GIB}] * 2 + [{"name": "T4", "memory": 15 * GIB}]
    job = {"run": "odd-cat-1", "name": "train", "status": "running"}
    items = [
        a_runner(gpus=cards, jobs=[job]),
        a_runner("old", status="lost", status_text="Unreachable", slots=2, heartbeat_at=10**12),
    ]
    stub.on("GET …/runners", Reply(body={"items": items, "next": None}))
    assert [re.split(r"  +", line) for line in dstack("runners").out.splitlines()] == [
        ["RUNNER", "CPU", "MEMORY", "GPU", "JOBS", "STATUS", "SEEN"],
        ["box", "4", "16GiB", "V100 16GiB x 2, T4 15GiB", "1", "Online", "now"],
        ["old", "2 of 4", "16GiB", "none", "0", "Unreachable", "1970-01-12"],
    ]
    assert json.loads(dstack("runners", "--json").out) == items
    dstack("runners", "-a")
    assert [call.query for call in stub.calls] == [{}, {}, {"all": "1"}]


def test_none(stub: StubApi, dstack: Dstack) -> None:
    stub.on("GET …/runners", Reply(body={"items": [], "next": None}))
    done = dstack("runners")
    assert (done.code, done.out, "No runner is online." in done.err) == (0, "", True)
    assert json.loads(dstack("runners", "--json").out) == []
