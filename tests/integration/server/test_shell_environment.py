"""Credentials in the environment of the submitting shell: sealed in the database, handed to the run's jobs."""

from __future__ import annotations

import msgspec

from dstack.server.db.tables import run_values, submissions
from dstack.server.services import assignments
from dstack.server.services import runs as run_service
from dstack.server.services.stored import StoredSubmission
from tests.support.world import World

ONE = "workflows:\n  - {name: job, provider: bash, commands: ['true']}\n"
SHELL = {
    "PATH": "/bin",
    "PIP_INDEX_URL": "https://me:s3cr3t-of-mine@index.example.org/simple",
    "UV_INDEX_PRIVATE_PASSWORD": "an0ther-secret",
    "HTTPS_PROXY": "http://proxy.example.org:3128",
}
PRIVATE = {"PIP_INDEX_URL", "UV_INDEX_PRIVATE_PASSWORD"}


def submit(world: World) -> str:
    submission = msgspec.structs.replace(world.submission(ONE, "job"), environment=SHELL)
    return run_service.submit(world.context, submission, None).name


def test_they_are_stored_sealed_only_and_end_with_the_run(world: World) -> None:
    runner = world.runner()
    submit(world)
    [row] = world.rows(submissions)
    stored = msgspec.msgpack.decode(row.body, type=StoredSubmission)
    assert set(stored.environment) == {"PATH", "HTTPS_PROXY"}
    assert set(stored.private) == PRIVATE
    sealed = world.rows(run_values)
    assert {value.name for value in sealed} == {f"shell:{name}" for name in PRIVATE}
    for content in (row.body, *(value.value for value in sealed)):
        assert b"s3cr3t" not in content
        assert b"an0ther" not in content
    world.place()
    runner.take()
    [held] = runner.held.values()
    assert SHELL.items() <= held.environment.items()
    runner.finish("job")
    assert world.rows(run_values) == []


def test_a_shell_without_any_needs_no_key(world: World) -> None:
    world.submit(ONE, "job")
    assert world.rows(run_values) == []
    assert not world.settings.secrets_file.exists()


def test_a_lost_key_costs_the_variables_and_not_the_runner(world: World) -> None:
    runner = world.runner()
    submit(world)
    assignments._seen.clear()  # pyright: ignore[reportPrivateUsage] - as a server that was started anew
    world.settings.secrets_file.unlink()
    world.context.sealer = type(world.context.sealer)(world.settings.secrets_file, "")
    world.place()
    runner.take()
    [held] = runner.held.values()
    assert (held.environment["PATH"], PRIVATE & held.environment.keys()) == ("/bin", set())
