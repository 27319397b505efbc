"""Submitting: the same key is the same run, names are unique, nothing wrong leaves a trace."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import pytest

from dstack import workflows
from dstack.server.db.tables import events, jobs, retired_run_names, runs, steps
from dstack.server.services import names, resume, run_names, secrets
from dstack.server.services import runs as run_service
from dstack.server.services.errors import NotFound
from dstack.server.services.repositories import RepositoryRef
from dstack.server.services.resume import Wish
from dstack.server.services.runs import CodeRef
from tests.support.resuming import failed_chain
from tests.support.world import REPOSITORY, World

REF = RepositoryRef(key=REPOSITORY, name="digits")
ONE = "workflows:\n  - {name: job, provider: bash, commands: ['true']}\n"
T = TypeVar("T")


def at_once(count: int, work: Callable[[int], T]) -> list[T]:
    """`work(0)` … `work(count - 1)` in threads that begin together; an error of one fails the test."""
    barrier = threading.Barrier(count)
    results: list[T | BaseException] = [RuntimeError("did not run")] * count

    def one(number: int) -> None:
        barrier.wait()
        try:
            results[number] = work(number)
        except BaseException as error:  # noqa: BLE001 -- told below, in the test's own thread
            results[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def test_the_same_key_is_the_same_run(world: World) -> None:
    submission = world.submission(ONE, "job")
    first = run_service.submit(world.context, submission, "k1")
    again = run_service.submit(world.context, submission, "k1")
    other = run_service.submit(world.context, submission, "k2")
    assert (first.new, again.new, other.new) == (True, False, True)
    assert again.name == first.name != other.name
    assert len(world.rows(runs)) == 2


def test_the_same_key_from_many_threads_is_one_run(world: World) -> None:
    submission = world.submission(ONE, "job")
    found = at_once(6, lambda _: run_service.submit(world.context, submission, "key"))
    assert len({made.name for made in found}) == 1
    assert sorted(made.new for made in found) == [False] * 5 + [True]
    assert (len(world.rows(runs)), len(world.rows(jobs))) == (1, 1)
    world.check_events()


def test_without_a_key_each_is_a_run(world: World) -> None:
    submission = world.submission(ONE, "job")
    names = {run_service.submit(world.context, submission, None).name for _ in range(2)}
    assert len(names) == 2


def test_names_are_unique_under_concurrency(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "ADJECTIVES", ["bold"])
    monkeypatch.setattr(names, "ANIMALS", ["ant"])
    found = at_once(8, lambda number: world.submit(ONE, "job", key=str(number)))
    assert sorted(found) == [f"bold-ant-{number}" for number in range(1, 9)]


def test_many_new_repositories_at_once(world: World) -> None:
    found = at_once(6, lambda number: world.submit(ONE, "job", repository=f"git:r{number % 2}:."))
    assert len({world.run(name)["repository"] for name in found}) == 2


def test_names_are_never_reused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy import insert

    from dstack.server.services.runs import SUBMIT

    monkeypatch.setattr(names, "ADJECTIVES", ["bold"])
    monkeypatch.setattr(names, "ANIMALS", ["ant"])
    retired = {"project_id": world.context.project_id, "name": "bold-ant-1", "at": world.clock.now()}
    world.context.database.write(SUBMIT, lambda tx: tx.execute(insert(retired_run_names), retired))
    assert world.submit(ONE, "job") == "bold-ant-2"


def test_what_is_wrong_leaves_nothing(world: World) -> None:
    wrong = "workflows:\n  - {name: job, provder: bash, commands: ['true']}\n"
    for text, workflow, args in ((wrong, "job", ()), (ONE, "jbo", ()), (ONE, "job", ("--epochs", "3"))):
        with pytest.raises(workflows.Invalid):
            world.submit(text, workflow, *args, key="k")
    assert [len(world.rows(table)) for table in (runs, steps, jobs, events)] == [0, 0, 0, 0]
    assert world.submit(ONE, "job", key="k"), "and the key is not used up"


def test_the_name_of_the_run_may_stand_in_its_commands(world: World) -> None:
    runner = world.runner()
    text = "workflows:\n  - {name: job, provider: bash, commands: ['echo ${{ run.name }}']}\n"
    name = world.submit(text, "job")
    world.place()
    (assignment,) = runner.poll().assign
    assert assignment.spec.commands == (f"echo {name}",)


def test_code_that_is_not_in_the_store_is_refused_by_its_own_code(world: World) -> None:
    from dstack.server.services.errors import CodeMissing

    with pytest.raises(CodeMissing):
        world.submit(ONE, "job", code=CodeRef(manifest_id="ab" * 32, content_id="cd" * 32))
    assert world.rows(runs) == []


def test_an_unknown_run_is_told_with_near_names(world: World) -> None:
    name = world.submit(ONE, "job")
    with pytest.raises(NotFound) as caught:
        world.stop(name + "1")
    assert name in caught.value.hint


def test_a_thousand_jobs_are_stored_in_one_go(world: World) -> None:
    count = 1000
    wanted = ", ".join(f"w{number}" for number in range(count))
    text = "workflows:\n" + "".join(
        f"  - {{name: w{number}, provider: bash, commands: ['true']}}\n" for number in range(count)
    )
    name = world.submit(
        text + f"  - {{name: all, provider: bash, commands: ['true'], depends-on: [{wanted}]}}\n", "all"
    )
    view = world.run(name)
    assert [job["name"] for job in view["jobs"]][:3] == ["w0", "w1", "w2"]
    assert (view["jobs_total"], view["job_counts"]) == (1001, {"queued": 1000, "waiting": 1})
    world.check_events()


class TestOnce:
    """Megabytes of files and hundreds of secrets: each costs what it costs once."""

    @pytest.fixture
    def done(self, world: World, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
        """How often files were read, and a secret was opened."""
        found: Counter[str] = Counter()
        plain_load, plain_open = workflows.load, world.context.sealer.open

        def load(*given: Any, **more: Any) -> workflows.Workflows:
            found["read"] += 1
            return plain_load(*given, **more)

        def opened(sealed: bytes, bound: bytes) -> bytes:
            found["opened"] += 1
            return plain_open(sealed, bound)

        secrets.add(world.context, REF, "HF_TOKEN", "hf_0123456789", overwrite=False, actor=None)
        monkeypatch.setattr(workflows, "load", load)
        monkeypatch.setattr(world.context.sealer, "open", opened)
        return found

    def test_a_submission(self, world: World, done: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
        taken = world.submit(ONE, "job")
        offered = iter((taken, "free-name-1"))
        monkeypatch.setattr(run_names, "free", lambda *_: next(offered))
        done.clear()
        submission = msgspec.structs.replace(world.submission(ONE, "job"), diff="+token = 'hf_0123456789'")
        assert run_service.submit(world.context, submission, None).name == "free-name-1"
        assert done == {"read": 1, "opened": 1}

    def test_a_run_that_follows_another(self, world: World, done: Counter[str]) -> None:
        """It is also planned as it would have been in the runs that made what it takes over."""
        old = failed_chain(world, world.runner())
        done.clear()
        assert resume.submit(world.context, old, Wish(set=("prepare.seed=2",)), None).warnings
        assert done == {"read": 1, "opened": 1}
        resume.plan(world.context, old, Wish(set=("prepare.seed=2",)))
        assert done == {"read": 2, "opened": 2}
