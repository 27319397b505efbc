"""Artifacts that a stub of the API has, with a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dstack.snapshots.blobs.local import LocalBlobStore
from dstack.snapshots.capture import save
from dstack.snapshots.store import SnapshotStore
from tests.support.stub_api import Call, Reply, StubApi
from tests.support.stub_store import serve

RUN = "odd-cat-1"


class Saved:
    """Artifacts that the stub has, newest last."""

    def __init__(self, stub: StubApi, folder: Path) -> None:
        self.items: list[dict[str, Any]] = []
        (folder / "store").mkdir()
        catalog = serve(stub, f"file://{folder}/store/KEY")
        self.store = SnapshotStore(LocalBlobStore(folder / "store"), catalog)
        self._folder = folder
        stub.on("GET …/tags", Reply(body={"items": []}))
        stub.on("GET …/artifacts", self._newest)
        stub.on("GET …/artifacts/history", self._history)

    def add(self, files: dict[str, str | bytes | None], path: str = "out", job: str = "train", **more: Any) -> str:
        """Save a folder of `files` (None: a folder, text beginning with `->`: a link); its manifest id."""
        folder = self._folder / f"saved-{len(self.items)}"
        folder.mkdir()
        for name, content in files.items():
            at = folder / name
            at.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                at.mkdir()
            elif isinstance(content, str) and content.startswith("->"):
                at.symlink_to(content[2:])
            else:
                at.write_bytes(content if isinstance(content, bytes) else content.encode())
        saved = save(folder, self.store)
        self.items.append(
            {
                "run": RUN, "job": job, "workflow": job.partition("-")[0], "path": path, "files": saved.files,
                "size": saved.size, "partial": False, "at": 1_000_000 * (len(self.items) + 1), "live": False,
                "attempt": 1, "stored": saved.stored, "manifest_id": saved.manifest_id.hex(),
                "content_id": saved.content_id.hex(), **more,
            }
        )  # fmt: skip
        return self.items[-1]["manifest_id"]

    def _newest(self, call: Call) -> Reply:
        newest = {(item["job"], item["path"]): item for item in self._of(call)}
        return Reply(body={"items": list(newest.values())})

    def _history(self, call: Call) -> Reply:
        return Reply(body={"items": self._of(call)[::-1], "next": None})

    def _of(self, call: Call) -> list[dict[str, Any]]:
        return [item for item in self.items if call.query.get("job", item["job"]) == item["job"]
                and call.query.get("run", item["run"]) == item["run"]]  # fmt: skip
