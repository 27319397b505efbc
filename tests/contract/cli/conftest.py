"""A stub server, a repository, and the command line run within this process against both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dstack.cli import main
from dstack.snapshots.catalog import MemoryCatalog
from dstack.snapshots.interfaces import PackIndex
from tests.contract.cli.saved import Saved
from tests.support.stub_api import PROJECT, Call, Reply, StubApi, frames


@dataclass
class Done:
    """How a command ended. Bytes that are not UTF-8 stand as surrogates."""

    code: int
    out: str
    err: str


Dstack = Callable[..., Done]
LOGS = "GET …/runs/odd-cat-1/logs"


@pytest.fixture
def stub() -> Iterator[StubApi]:
    stub = StubApi()
    yield stub
    stub.close()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / ".dstack").mkdir(parents=True)
    (root / ".dstack" / "workflows.yaml").write_text("workflows:\n  - name: train\n    provider: bash\n")
    (root / "train.py").write_text("print(1)\n")
    return root


@pytest.fixture
def dstack(
    stub: StubApi,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> Dstack:
    monkeypatch.setenv("DSTACK_SERVER", stub.address)
    monkeypatch.setenv("DSTACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USER", "me")
    monkeypatch.delenv("DSTACK_TOKEN", raising=False)
    monkeypatch.chdir(repository)

    def run(*words: str) -> Done:
        capfdbinary.readouterr()
        code = main(list(words))
        out, err = capfdbinary.readouterr()
        return Done(code, out.decode("utf-8", "surrogateescape"), err.decode())

    return run


def a_job(name: str, status: str = "done", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "workflow": name,
        "status": status,
        "status_text": status.capitalize(),
        "artifacts": [],
        **more,
    }


def a_run(name: str = "odd-cat-1", status: str = "done", **more: Any) -> dict[str, Any]:
    """A run as the API shows it."""
    code = {"done": 0, "failed": 1, "stopped": 122}.get(status)
    found = {
        "id": "run_" + "0" * 32,
        "name": name,
        "workflow": "train",
        "status": status,
        "status_text": status.capitalize(),
        "reason": None,
        "reason_text": None,
        "exit_code": code,
        "tags": [],
        "submitted_at": 1_700_000_000_000_000,
        "finished_at": 1_700_000_012_000_000 if code is not None else None,
        "jobs": [a_job("train", status)],
    }
    found |= more
    counts: dict[str, int] = {}
    for job in found["jobs"]:
        counts[job["status"]] = counts.get(job["status"], 0) + 1
    return {"jobs_total": len(found["jobs"]), "job_counts": counts, **found}


class Store:
    """The store's calls, answered from memory."""

    def __init__(self, stub: StubApi) -> None:
        self.blobs: dict[str, bytes] = {}
        self.catalog = MemoryCatalog()
        for name in ("missing", "add", "sign", "sync"):
            stub.on(f"POST …/store/{name}", getattr(self, f"_{name}"))
        self._stub = stub

    def _missing(self, call: Call) -> Reply:
        ids = msgspec.msgpack.decode(call.body, type=list[bytes])
        return Reply(body=msgspec.msgpack.encode(list(self.catalog.missing(ids))))

    def _add(self, call: Call) -> Reply:
        packs = msgspec.msgpack.decode(call.body, type=list[PackIndex])
        self.catalog.add(packs)
        return Reply(body=msgspec.msgpack.encode(len(packs)))

    def _sync(self, call: Call) -> Reply:
        return Reply(body=msgspec.msgpack.encode(True))

    def _sign(self, call: Call) -> Reply:
        asked = msgspec.msgpack.decode(call.body)
        signed = []
        for key in asked["keys"]:
            target = f"{PROJECT}/store/blobs/{key}"
            self._stub.on(f"PUT {target}", self._put)
            signed.append({"method": asked["method"], "url": target, "headers": [], "expires": 2**60})
        return Reply(body=msgspec.msgpack.encode(signed))

    def _put(self, call: Call) -> Reply:
        self.blobs[call.path] = call.body
        return Reply(body=msgspec.msgpack.encode(True))


@pytest.fixture
def store(stub: StubApi) -> Store:
    return Store(stub)


@pytest.fixture
def accepting(stub: StubApi, store: Store) -> StubApi:
    stub.on("POST …/runs", Reply(201, a_run(status="queued", jobs=[a_job("train", "queued")])))
    return stub


def end(**more: Any) -> list[bytes]:
    return frames({"t": "end", "run": a_run(**more)})


@pytest.fixture
def saved(stub: StubApi, tmp_path: Path) -> Saved:
    return Saved(stub, tmp_path)
