"""What a job finds when it starts: a fresh working copy, its inputs, its folders, its environment."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dstack.client.api import ApiError, Unreachable
from dstack.protocol.messages import Assignment
from dstack.runner.environments import EnvironmentManager, Interpreter, Order, SetupError
from dstack.runner.executors.interface import Launch
from dstack.runner.expansion import expanded
from dstack.runner.folders import append_to, write_environment
from dstack.runner.metrics import job_environment
from dstack.runner.ports import port_environment
from dstack.runner.threads import stoppable, whole
from dstack.runner.workshop import Workshop
from dstack.snapshots.materialise import Materialiser
from dstack.snapshots.restore import restore
from dstack.snapshots.store import SnapshotStore

_log = logging.getLogger(__name__)
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


async def set_up(shop: Workshop, assignment: Assignment, folder: Path, gpus: tuple[int, ...]) -> Launch:
    """Everything that stands before the process starts. Raises SnapshotError, SetupError, OSError."""
    work = await _laid_out(shop, assignment, folder)
    return await _launch_of(shop.environments, assignment, folder, work, gpus)


async def _laid_out(shop: Workshop, assignment: Assignment, folder: Path) -> Path:
    """The working copy; tried again for as long as the server, or its store, gives no answer."""
    while True:
        try:
            return await _lay_out(shop.materialiser, shop.store, assignment, folder)
        except Unreachable as error:
            _log.info("attempt %s: its set-up waits for the server: %s", assignment.attempt_id, error)
        except ApiError as error:
            raise SetupError(f"the server did not hand out its files: {error.message}") from error
        await whole(shutil.rmtree, folder / "work", ignore_errors=True)
        await asyncio.sleep(shop.settings.retry_last)


async def _lay_out(materialiser: Materialiser, store: SnapshotStore, assignment: Assignment, folder: Path) -> Path:
    """Make the working copy in `folder/work`; returns it."""
    work = folder / "work"
    if assignment.code is None:
        work.mkdir(mode=0o700, exist_ok=True)
    elif materialiser.is_quick(assignment.code):
        materialiser.unpack(assignment.code, work)
    else:
        await stoppable(partial(materialiser.unpack, assignment.code, work))
    base = _inside(work, assignment.spec.working_dir, "working_dir")
    for given in assignment.inputs:
        target = _inside(base, given.path, f"the artifact of {given.job_name}")
        await stoppable(partial(_put, store, given.manifest_id, target))
    for path in assignment.spec.artifacts:
        _inside(base, path, "artifacts").mkdir(parents=True, exist_ok=True)
    return work


def _put(store: SnapshotStore, manifest_id: bytes, target: Path, stopped: Callable[[], bool]) -> None:
    restore(store, manifest_id, target, stopped=stopped)


def _inside(work: Path, path: str, what: str) -> Path:
    """`path` below `work`, checked on the resolved path: code may bring links."""
    found = Path(os.path.realpath(work / path))
    if not found.is_relative_to(os.path.realpath(work)):
        raise SetupError(f"{what} {path!r} leads out of the job's working copy")
    return found


async def _launch_of(
    environments: EnvironmentManager,
    assignment: Assignment,
    folder: Path,
    work: Path,
    gpus: tuple[int, ...],
) -> Launch:
    """The command with its whole environment. What the set-up of a Python prints goes to the job's log."""
    spec = assignment.spec
    environment = dict(assignment.environment)
    argv = spec.argv
    # The empty value hides every card from CUDA; a job that asked for none must not take another's.
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in gpus)
    for name in ("JOB_HOSTNAME", "HOSTNAME"):
        environment.setdefault(name, os.uname().nodename)
    environment.update(port_environment(spec.ports))
    if not environment.get("PATH"):
        environment["PATH"] = _SYSTEM_PATH
    if spec.python is not None or (argv and argv[0] == "python"):
        interpreter = await _interpreter(environments, assignment, folder, work, environment)
        environment["PATH"] = f"{interpreter.bin_dir}:{environment['PATH']}"
        if interpreter.venv is not None:
            environment["VIRTUAL_ENV"] = str(interpreter.venv)
        if argv and argv[0] == "python":
            argv = (str(interpreter.path), *argv[1:])
    environment = expanded(environment, spec.environment)
    environment.update(job_environment(folder, environment.get("PYTHONPATH", "")))
    return Launch(
        attempt_id=assignment.attempt_id,
        folder=folder,
        cwd=work / spec.working_dir,
        env=environment,
        argv=argv,
        script=spec.commands,
        memory_events=spec.requirements.memory is not None,
    )


async def _interpreter(
    environments: EnvironmentManager, assignment: Assignment, folder: Path, work: Path, environment: dict[str, str]
) -> Interpreter:
    order = Order(
        attempt_id=assignment.attempt_id,
        spec=assignment.spec.python,
        code_root=work,
        environment=environment,
        shell_python=assignment.python,
        shell_version=assignment.python_version,
    )
    found = await environments.prepare(order, lambda data: append_to(folder / "spool", data))
    if found.key:
        write_environment(folder, found.key)
    return found
