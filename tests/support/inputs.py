"""A runner's working copies, made as for jobs, without the jobs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dstack.domain.ports import Clock, SystemClock
from dstack.protocol import messages
from dstack.runner.folders import folder_of, forget
from dstack.runner.input_cache import Disk, InputCache
from dstack.runner.inputs import Inputs
from dstack.runner.settings import Settings
from dstack.runner.setup import set_up
from dstack.runner.workshop import Workshop
from dstack.sdk.provider import JobSpec
from dstack.snapshots.capture import save
from dstack.snapshots.materialise import Materialiser
from tests.support.stores import RecordingStore


class Bench:
    """One agent's tools, as far as its inputs need them; every snapshot counts as large."""

    def __init__(
        self, home: Path, store: RecordingStore, way: str = "", *, inputs_from: int = 1, clock: Clock | None = None
    ) -> None:
        self.settings = Settings(home=home, inputs_way=way, inputs_from=inputs_from)
        self.store = store
        (self.settings.folder / "attempts").mkdir(parents=True, exist_ok=True)
        none: Any = None
        self.shop = Workshop(
            settings=self.settings, clock=clock or SystemClock(), executor=none, environments=none, slots=none,
            events=none, logs=none, secrets=none, watch=none, store=store, materialiser=Materialiser(store),
        )  # fmt: skip
        # However full the disk of the tests is.
        self.inputs = self.shop.kept_inputs = Inputs(self.shop, lambda _: Disk(1 << 50, 1 << 50))

    @property
    def cache(self) -> InputCache:
        return self.inputs.cache

    def save(self, folder: Path) -> bytes:
        """The manifest id of what is in `folder`."""
        return save(folder, self.store).manifest_id

    def assignment(
        self,
        *inputs: tuple[str, bytes],
        code: bytes | None = None,
        artifacts: Sequence[str] = (),
        earlier: Mapping[str, bytes] | None = None,
    ) -> messages.Assignment:
        """`earlier` is what an attempt before had saved of its artifacts."""
        spec = JobSpec(name="train", commands=("exit 0",), artifacts=tuple(artifacts))
        return messages.Assignment(
            attempt_id=uuid.uuid4(), number=1, job_id=uuid.uuid4(), run_name="calm-crab-1", workflow="train",
            job_name="train", project="main", spec=spec, code=code,
            inputs=tuple(
                messages.InputRef(path=path, manifest_id=manifest_id, run_name="calm-crab-1", job_name="prepare")
                for path, manifest_id in inputs
            ),
            resumed=tuple(
                messages.EarlierSnapshot(
                    path=path, manifest_id=manifest_id, run_name="calm-crab-1", attempt=1, files=1, size=1
                )
                for path, manifest_id in (earlier or {}).items()
            ),
        )  # fmt: skip

    def folder(self, assignment: messages.Assignment) -> Path:
        return folder_of(self.settings, assignment.attempt_id)

    async def lay_out(self, assignment: messages.Assignment) -> Path:
        self.folder(assignment).mkdir(mode=0o700)
        return (await set_up(self.shop, assignment, self.folder(assignment), ())).cwd

    def begin(
        self,
        *inputs: tuple[str, bytes],
        code: bytes | None = None,
        artifacts: Sequence[str] = (),
        earlier: Mapping[str, bytes] | None = None,
    ) -> tuple[messages.Assignment, Path]:
        """An attempt with its working copy."""
        assignment = self.assignment(*inputs, code=code, artifacts=artifacts, earlier=earlier)
        return assignment, asyncio.run(self.lay_out(assignment))

    def end(self, assignment: messages.Assignment) -> None:
        """What an agent does when it has reported the end."""
        forget(self.folder(assignment))
        self.shop.release_inputs(assignment.attempt_id)

    def close(self) -> None:
        """End all attempts that are left, as a new agent would that finds them half."""
        for folder in (self.settings.folder / "attempts").iterdir():
            forget(folder)

    def entries(self) -> list[Path]:
        """What is in the cache, by last use."""
        found = [path for path in self.cache.root.iterdir() if (path / "entry.json").exists()]
        return sorted(found, key=lambda path: (path / "entry.json").stat().st_mtime_ns)
