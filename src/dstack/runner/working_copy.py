"""The folder that a job works in: its code, and the files of other jobs that it was given.

Small snapshots are written, straight from memory the second time. Where one is large, the cache of this machine is
asked (`runner.inputs`), which is imported only then.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from dstack.client.api import Unreachable
from dstack.protocol.messages import Assignment, InputRef
from dstack.runner.environments import SetupError
from dstack.runner.folders import LAYERS, clear_work
from dstack.runner.threads import stoppable, whole
from dstack.runner.workshop import Workshop
from dstack.snapshots.errors import DamagedStore
from dstack.snapshots.restore import Restored

if TYPE_CHECKING:
    from dstack.runner.input_cache import Wanted
    from dstack.runner.inputs import Way

_log = logging.getLogger(__name__)
_PER_FILE: Final = 26 << 10
"""What a file counts as, beside its bytes: writing 5,000 small ones takes as long as writing 128 MiB."""


class WorkingCopy:
    """`folder/work`, while it is made. `begin`, then `put` for each of `inputs_left`, in order."""

    def __init__(self, shop: Workshop, assignment: Assignment, folder: Path) -> None:
        self.inputs_left = list(assignment.inputs)
        """What `begin` did not bring."""
        self._shop = shop
        self._assignment = assignment
        self._folder = folder
        self._large: dict[bytes, Restored] = {}
        self._way: Way = "direct"

    async def begin(self) -> None:
        """Put the code there, and large inputs where the whole can be laid over them.

        Raises SetupError, SnapshotError, OSError, and what the store's catalog raises.
        """
        await self._measure()
        if self._large:
            self._way = await self._shop.inputs().way(sum(size.files for size in self._large.values()))
        if self._way == "overlay" and await self._lay_over():
            return
        await self._put_code(self._folder / "work")

    async def put(self, manifest_id: bytes, target: Path) -> None:
        """Put a snapshot there; files in the way are replaced, others stay. Raises as `begin`."""
        size = self._large.get(manifest_id)
        if size is not None and self._way in ("reflink", "copy"):
            inputs = self._shop.inputs()
            if await inputs.clone(self._assignment.attempt_id, manifest_id, size, target, self._way):
                return
        await stoppable(partial(self._shop.materialiser.unpack, manifest_id, target))

    async def _measure(self) -> None:
        """Which snapshots are large enough to be worth a look at the cache: for most jobs, none.

        Where that is quicker by less than tenths of a second, it would cost a job more than it gives: hard links to and
        renames from a working copy that is an overlay fail.
        """
        materialiser = self._shop.materialiser
        snapshots = {self._assignment.code: None, **{given.manifest_id: given for given in self._assignment.inputs}}
        for manifest_id, given in snapshots.items():
            if manifest_id is None or materialiser.is_quick(manifest_id):
                continue
            with named(given):
                size = await whole(materialiser.measure, manifest_id)
            if size.size + _PER_FILE * size.files >= self._shop.settings.inputs_from:
                self._large[manifest_id] = size

    async def _put_code(self, target: Path) -> None:
        code = self._assignment.code
        if code is None:
            os.makedirs(target, mode=0o700, exist_ok=True)
        elif self._shop.materialiser.is_quick(code):
            self._shop.materialiser.unpack(code, target)
        else:
            await self.put(code, target)

    # --- as an overlay -----------------------------------------------------------------------------------------

    async def _lay_over(self) -> bool:
        """False where nothing could be laid below; nothing of the working copy is there then."""
        from dstack.runner.overlay import UPPER

        below: list[Wanted] = []
        code = self._folder / UPPER
        code.parent.mkdir(mode=0o700)
        tree = await self._take(self._assignment.code, ".", below)
        if tree is None:
            await self._put_code(code)
        left = await self._take_inputs(tree or code, below)
        if below:
            try:
                await self._shop.inputs().lay_over(self._folder, below)
            except OSError as error:
                _log.warning("%s is filled, not laid over its inputs: %s", self._folder, error)
            else:
                self.inputs_left = left
                return True
        await whole(clear_work, self._folder)
        self._way = "direct"
        return False

    async def _take_inputs(self, code: Path, below: list[Wanted]) -> list[InputRef]:
        """Those that have to be put there otherwise."""
        root = inside(code, ".", "the working copy")
        base = inside(code, self._assignment.spec.working_dir, "working_dir")
        left: list[InputRef] = []
        places: list[Path] = []
        for given in self._assignment.inputs:
            place = inside(base, given.path, f"the artifact of {given.job_name}").relative_to(root)
            # What goes below another input is put there through the mount: a link in that one may lead elsewhere.
            nested = any(place != other and place.is_relative_to(other) for other in places)
            with named(given):
                if nested or await self._take(given.manifest_id, str(place), below) is None:
                    left.append(given)
            places.append(place)
        return left

    async def _take(self, manifest_id: bytes | None, place: str, below: list[Wanted]) -> Path | None:
        from dstack.runner.input_cache import Wanted
        from dstack.runner.overlay import MOST_LAYERS

        size = None if manifest_id is None else self._large.get(manifest_id)
        if manifest_id is None or size is None or len(below) == MOST_LAYERS:
            return None
        wanted = Wanted(manifest_id, place)
        tree = await self._shop.inputs().below(self._assignment.attempt_id, self._folder, wanted, size)
        if tree is not None and wanted not in below:
            below.append(wanted)
        return tree


async def laid_again(shop: Workshop, attempt_id: UUID, folder: Path, pid: int) -> str:
    """Have the working copy that an earlier agent laid over its inputs lie over them in this agent's sight; waits for
    the server where that has to be asked. `pid` is a process that works in it, 0 for none.

    Returns what is wrong with the working copy, in words. Raises OSError where nobody can look into it now.
    """
    while (folder / LAYERS).exists():
        try:
            return await shop.inputs().lay_over_again(attempt_id, folder, pid)
        except Unreachable as error:
            _log.info("attempt %s: its inputs wait for the server: %s", attempt_id, error)
            await asyncio.sleep(shop.settings.retry_last)
    return ""


@contextmanager
def named(given: InputRef | None) -> Generator[None]:
    """What is damaged in the store is told as the input that it is part of, if it is one's, by a SetupError."""
    try:
        yield
    except DamagedStore as error:
        if given is None:
            raise
        run, job = given.run_name, given.job_name
        raise SetupError(
            f"its input {given.path} of {run}/{job} is damaged: {error} `dstack verify {run}` names its files, "
            f"and `dstack restart {run} {job}` makes it anew"
        ) from error


def inside(work: Path, path: str, what: str) -> Path:
    """`path` below `work`, checked on the resolved path: code may bring links."""
    found = Path(os.path.realpath(work / path))
    if not found.is_relative_to(os.path.realpath(work)):
        raise SetupError(f"{what} {path!r} leads out of the job's working copy")
    return found
