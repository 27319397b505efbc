"""What a job finds when it starts: a fresh working copy, its inputs, its folders, its environment."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from dstack.client.api import ApiError, Unreachable
from dstack.client.profiles import LOCAL
from dstack.protocol.messages import Assignment
from dstack.runner import beginning
from dstack.runner.environments import EnvironmentManager, Interpreter, Order, SetupError
from dstack.runner.executors.interface import Launch
from dstack.runner.expansion import expanded
from dstack.runner.folders import append_to, clear_work, write_environment
from dstack.runner.metrics import job_environment
from dstack.runner.overlaps import clash
from dstack.runner.ports import port_environment
from dstack.runner.settings import Settings
from dstack.runner.threads import whole
from dstack.runner.working_copy import WorkingCopy, inside, named
from dstack.runner.workshop import Workshop

_log = logging.getLogger(__name__)
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


async def set_up(shop: Workshop, assignment: Assignment, folder: Path, gpus: tuple[int, ...]) -> Launch:
    """Everything that stands before the process starts. Raises SnapshotError, SetupError, OSError."""
    work = await _laid_out(shop, assignment, folder)
    for earlier in assignment.resumed:
        append_to(folder / "spool", f"dstack: {beginning.words(earlier)}\n".encode())
    return await _launch_of(shop, assignment, folder, work, gpus)


def _way_to_the_server(settings: Settings) -> dict[str, str]:
    """Who uses `dstack` in a job means the server that the job is of, not one of the job's HOME."""
    if settings.server:
        return {"DSTACK_SERVER": settings.server}
    return {"DSTACK_HOME": str(settings.home), "DSTACK_SERVER": LOCAL}


async def _laid_out(shop: Workshop, assignment: Assignment, folder: Path) -> Path:
    """The working copy; tried again for as long as the server, or its store, gives no answer."""
    while True:
        try:
            return await _lay_out(shop, assignment, folder)
        except Unreachable as error:
            _log.info("attempt %s: its set-up waits for the server: %s", assignment.attempt_id, error)
        except ApiError as error:
            raise SetupError(f"the server did not hand out its files: {error.message}") from error
        await whole(clear_work, folder)
        await asyncio.sleep(shop.settings.retry_last)


async def _lay_out(shop: Workshop, assignment: Assignment, folder: Path) -> Path:
    """Make the working copy in `folder/work`; returns it."""
    if len(assignment.inputs) > 1 and (wrong := await whole(clash, shop.store, assignment.inputs)):
        raise SetupError(wrong)
    work = folder / "work"
    copy = WorkingCopy(shop, assignment, folder)
    await copy.begin()
    base = inside(work, assignment.spec.working_dir, "working_dir")
    for given in copy.inputs_left:
        with named(given):
            await copy.put(given.manifest_id, inside(base, given.path, f"the artifact of {given.job_name}"))
    for path in assignment.spec.artifacts:
        inside(base, path, "artifacts").mkdir(parents=True, exist_ok=True)
    for earlier in assignment.resumed:
        into = inside(base, earlier.path, "artifacts")
        await beginning.put_back(shop.store, assignment.run_name, earlier, into)
    return work


async def _launch_of(
    shop: Workshop,
    assignment: Assignment,
    folder: Path,
    work: Path,
    gpus: tuple[int, ...],
) -> Launch:
    """The command with its whole environment. What the set-up of a Python prints goes to the job's log."""
    spec = assignment.spec
    environment = {**_way_to_the_server(shop.settings), **assignment.environment}
    argv = spec.argv
    # The empty value hides every card from CUDA; a job that asked for none must not take another's.
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in gpus)
    for name in ("JOB_HOSTNAME", "HOSTNAME"):
        environment.setdefault(name, os.uname().nodename)
    environment.update(port_environment(spec.ports))
    if not environment.get("PATH"):
        environment["PATH"] = _SYSTEM_PATH
    if spec.python is not None or (argv and argv[0] == "python"):
        interpreter = await _interpreter(shop.environments, assignment, folder, work, environment)
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
