"""Secrets and callers' values: sealed in the database, handed to one process of one runner, gone when the run is."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert, update

from dstack import workflows
from dstack.protocol import messages
from dstack.server.db.tables import attempt_secrets, metadata, run_values
from dstack.server.db.tables import secrets as secrets_table
from dstack.server.services import differences, secrets
from dstack.server.services import run_values as values_service
from dstack.server.services import runs as run_service
from dstack.server.services.errors import BadRequest, Conflict, NotFound, ServiceError
from dstack.server.services.named import run_id_of
from dstack.server.services.repositories import RepositoryRef, find_repository
from dstack.server.services.sealing import Sealer
from tests.support.world import REPOSITORY, World

ONE = "workflows:\n  - {name: job, provider: bash, commands: ['true']}\n"
REF = RepositoryRef(key=REPOSITORY, name="digits")
VALUE = "hf_s3cret-value-0123"


def giving(*names: str) -> str:
    """Workflows with one job, which is given these secrets (`X`) and callers' values (`env:K`)."""
    items = [name.removeprefix("env:") if ":" in name else f"{name}=${{{{ secrets.{name} }}}}" for name in names]
    return ONE.replace("commands", f"environment: [{', '.join(map(repr, items))}], commands")


def add(world: World, name: str, value: str = VALUE, *, overwrite: bool = False) -> dict[str, Any]:
    return secrets.add(world.context, REF, name, value, overwrite=overwrite, actor="ada")


def listed(world: World) -> list[str]:
    found = world.read(lambda tx: secrets.listing(tx, world.context.project_id, repository(world)))
    return [item["name"] for item in found]


def repository(world: World) -> uuid.UUID:
    found = world.read(lambda tx: find_repository(tx, world.context.project_id, REF))
    assert found is not None
    return found


def everything(world: World) -> bytes:
    """Every value of every row of every table."""
    found: list[bytes] = []
    for table in metadata.sorted_tables:
        for row in world.rows(table):
            found += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    return b"\n".join(found)


class TestSecrets:
    def test_set_and_listed_by_name_only(self, world: World) -> None:
        made = add(world, "TOKEN")
        add(world, "A_KEY")
        assert made == {"name": "TOKEN", "updated_at": world.clock.now(), "by": "ada"}
        assert listed(world) == ["A_KEY", "TOKEN"]
        assert VALUE.encode() not in everything(world)

    def test_one_that_exists_is_kept_unless_it_is_to_be_overwritten(self, world: World) -> None:
        add(world, "TOKEN")
        with pytest.raises(Conflict, match="`TOKEN` exists"):
            add(world, "TOKEN", "other-value")
        assert opened(world) == {"TOKEN": VALUE}
        add(world, "TOKEN", "other-value", overwrite=True)
        assert opened(world) == {"TOKEN": "other-value"}

    def test_update_and_delete_need_one_that_exists(self, world: World) -> None:
        with pytest.raises(NotFound):
            secrets.change(world.context, REF, "TOKEN", VALUE, actor=None)
        add(world, "TOKEN")
        secrets.change(world.context, REF, "TOKEN", "another-one", actor="bob")
        assert opened(world) == {"TOKEN": "another-one"}
        with pytest.raises(NotFound, match="there are: TOKEN"):
            secrets.remove(world.context, REF, "TOKNE")
        assert secrets.remove(world.context, REF, "TOKEN", "key")["by"] == "bob"
        assert secrets.remove(world.context, REF, "TOKEN", "key")["name"] == "TOKEN", "its answer was lost: no error"
        with pytest.raises(NotFound):
            secrets.remove(world.context, REF, "TOKEN", "another")
        assert listed(world) == []

    def test_repositories_have_their_own(self, world: World) -> None:
        add(world, "TOKEN")
        other = RepositoryRef(key="git:example.org/other:.")
        with pytest.raises(NotFound):
            secrets.remove(world.context, other, "TOKEN")
        secrets.add(world.context, other, "TOKEN", "of-another", overwrite=False, actor=None)
        assert opened(world) == {"TOKEN": VALUE}

    def test_they_stay_when_a_remote_is_added(self, world: World) -> None:
        add(world, "TOKEN")
        moved = RepositoryRef(key="git:example.org/moved:.", aliases=(REPOSITORY,))
        assert secrets.remove(world.context, moved, "TOKEN")["name"] == "TOKEN"

    @pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "ä", "A" * 101, "A\n", "A/B", "../x", "A\0"])
    def test_names(self, world: World, name: str) -> None:
        with pytest.raises(BadRequest, match="cannot name a secret"):
            add(world, name)

    @pytest.mark.parametrize("value", ["", "a\0b", "a" * 65537, "\ud800"])
    def test_values(self, world: World, value: str) -> None:
        with pytest.raises(BadRequest) as told:
            add(world, "TOKEN", value)
        assert not value or value[:30] not in str(told.value)

    def test_a_lost_key_destroys_nothing(self, world: World, make_world: Callable[..., World]) -> None:
        add(world, "TOKEN")
        key = world.settings.secrets_file
        kept = key.rename(key.with_name("elsewhere"))
        world.context.sealer = Sealer(key)
        for attempt in (
            lambda: add(world, "OTHER"),
            lambda: add(world, "TOKEN", "x", overwrite=True),
            lambda: opened(world),
        ):
            with pytest.raises(ServiceError, match=str(key)):
                attempt()
        assert not key.exists(), "a new key would stand in the way of the old one"
        kept.rename(key)
        assert opened(world) == {"TOKEN": VALUE}

    def test_with_a_lost_key_they_can_be_deleted_and_set_anew(self, world: World) -> None:
        add(world, "TOKEN")
        world.settings.secrets_file.unlink()
        world.context.sealer = Sealer(world.settings.secrets_file)
        secrets.remove(world.context, REF, "TOKEN")
        add(world, "TOKEN", "anew")
        assert opened(world) == {"TOKEN": "anew"}

    def test_rows_cannot_be_swapped(self, world: World) -> None:
        add(world, "TOKEN")
        add(world, "OTHER", "other-value")
        (row,) = world.rows(secrets_table, name="OTHER")
        world.context.database.write(
            secrets.SET,
            lambda tx: tx.execute(update(secrets_table).where(secrets_table.c.name == "TOKEN").values(value=row.value)),
        )
        with pytest.raises(ServiceError, match="belongs to another secret"):
            opened(world)


def opened(world: World) -> dict[str, str]:
    found = world.read(lambda tx: secrets.opened(tx, world.context, repository(world)))
    return {name: value.decode() for name, value in found.items()}


def started(world: World, *names: str, **more: Any) -> tuple[str, Any]:
    """A run whose job a runner holds, accepted and started."""
    runner = world.runner()
    name = world.submit(giving(*names), "job", **more)
    world.place()
    runner.take()
    return name, runner


class TestDelivery:
    def test_a_runner_gets_what_its_job_is_given(self, world: World) -> None:
        add(world, "TOKEN")
        add(world, "UNUSED", "of-nobody")
        values = {"HF_TOKEN": "hf_0123456789", "SEED": "7", "OTHER": "dropped"}
        _, runner = started(world, "TOKEN", "env:HF_TOKEN", "env:SEED", values=values)
        (assignment,) = runner.held.values()
        assert assignment.mask_set
        assert VALUE.encode() not in messages.encode(assignment)
        assert b"hf_0123456789" not in messages.encode(assignment)
        reply = runner.secrets("job")
        assert reply.values == {"TOKEN": VALUE, "env:HF_TOKEN": "hf_0123456789", "env:SEED": "7"}
        assert sorted(reply.masked) == ["TOKEN", "env:HF_TOKEN"]
        assert VALUE not in repr(reply)

    def test_a_job_without_secrets_has_none_to_fetch(self, world: World) -> None:
        runner = world.runner()
        world.submit(ONE, "job")
        world.place()
        runner.take()
        (assignment,) = runner.held.values()
        assert not assignment.mask_set
        assert runner.secrets("job") == messages.SecretsReply()

    def test_nothing_of_them_is_stored_in_the_clear(self, world: World) -> None:
        add(world, "TOKEN")
        name, runner = started(world, "TOKEN", "env:HF_TOKEN", values={"HF_TOKEN": "hf_0123456789"})
        runner.secrets("job")
        for value in (VALUE, "hf_0123456789"):
            assert value.encode() not in everything(world)
            assert value not in str(world.run(name))

    def test_values_that_no_job_needs_are_not_kept(self, world: World) -> None:
        world.submit(giving("env:SEED"), "job", values={"SEED": "1", "AWS_SECRET": "not asked for"})
        assert [row.name for row in world.rows(run_values)] == ["SEED"]

    def test_another_runner_gets_nothing(self, world: World) -> None:
        add(world, "TOKEN")
        _, runner = started(world, "TOKEN")
        thief = world.runner("south")
        thief.held = runner.held
        assert thief.secrets("job") == messages.SecretsReply(over=True)

    def test_an_earlier_process_of_the_runner_gets_nothing(self, world: World) -> None:
        add(world, "TOKEN")
        _, runner = started(world, "TOKEN")
        before = runner.incarnation
        runner.register(restarted=True)
        assert runner.secrets("job").values == {"TOKEN": VALUE}
        runner.incarnation = before
        assert runner.secrets("job") == messages.SecretsReply(register=True)

    def test_an_unknown_attempt_or_runner_gets_nothing(self, world: World) -> None:
        add(world, "TOKEN")
        _, runner = started(world, "TOKEN")
        assert runner.secrets(uuid.uuid4()) == messages.SecretsReply(over=True)
        runner.runner_id = uuid.uuid4()
        assert runner.secrets("job") == messages.SecretsReply(register=True)

    def test_an_attempt_that_is_over_gets_nothing(self, world: World) -> None:
        add(world, "TOKEN")
        _, runner = started(world, "TOKEN")
        key = runner.id_of("job")
        runner.finish("job")
        assert runner.secrets(key) == messages.SecretsReply(over=True)

    def test_an_attempt_keeps_the_secret_it_began_with(self, world: World) -> None:
        add(world, "TOKEN")
        _, runner = started(world, "TOKEN")
        assert runner.secrets("job").values == {"TOKEN": VALUE}
        secrets.change(world.context, REF, "TOKEN", "a-newer-value", actor=None)
        runner.register(restarted=True)
        assert runner.secrets("job").values == {"TOKEN": VALUE}
        secrets.remove(world.context, REF, "TOKEN")
        assert runner.secrets("job").values == {"TOKEN": VALUE}

    def test_a_secret_that_was_deleted_before_the_job_began_is_named(self, world: World) -> None:
        add(world, "TOKEN")
        _, runner = started(world, "TOKEN")
        secrets.remove(world.context, REF, "TOKEN")
        assert "the secret `TOKEN` does not exist any more" in runner.secrets("job").problem

    def test_a_lost_key_is_told_to_the_runner(self, world: World) -> None:
        add(world, "TOKEN")
        _, runner = started(world, "TOKEN")
        world.settings.secrets_file.unlink()
        world.context.sealer = Sealer(world.settings.secrets_file)
        assert str(world.settings.secrets_file) in runner.secrets("job").problem

    def test_a_run_that_needs_a_secret_is_refused_with_a_lost_key_and_others_go_on(self, world: World) -> None:
        add(world, "TOKEN")
        world.settings.secrets_file.unlink()
        world.context.sealer = Sealer(world.settings.secrets_file)
        world.submit(ONE, "job")
        with pytest.raises(ServiceError, match=str(world.settings.secrets_file)):
            world.submit(giving("TOKEN"), "job")


class TestEnds:
    @pytest.mark.parametrize("code", [0, 3])
    def test_the_transaction_that_ends_the_run_deletes_them(self, world: World, code: int) -> None:
        add(world, "TOKEN")
        _, runner = started(world, "TOKEN", "env:SEED", values={"SEED": "12345"})
        runner.secrets("job")
        assert world.rows(run_values)
        assert world.rows(attempt_secrets)
        runner.finish("job", code)
        assert not world.rows(run_values)
        assert not world.rows(attempt_secrets)
        assert listed(world) == ["TOKEN"]

    def test_a_run_that_is_stopped_before_it_begins(self, world: World) -> None:
        name = world.submit(giving("env:SEED"), "job", values={"SEED": "12345"})
        world.stop(name)
        assert world.run(name)["status"] == "stopped"
        assert not world.rows(run_values)

    def test_a_sweep_removes_what_a_backup_brings_back(self, world: World) -> None:
        over = world.submit(giving("env:SEED"), "job", values={"SEED": "12345"})
        kept = world.rows(run_values)[0]
        world.stop(over)
        live = world.submit(giving("env:SEED"), "job", values={"SEED": "12345"})
        world.context.database.write(secrets.SET, lambda tx: tx.execute(insert(run_values), dict(kept._mapping)))
        assert len(world.rows(run_values)) == 2
        world.sweep()
        assert len(world.rows(run_values)) == 1
        assert world.run(live)["status"] == "queued"


class TestExposure:
    def refused(self, world: World, text: str, *args: str, **more: Any) -> list[workflows.Diagnostic]:
        with pytest.raises(workflows.Invalid) as told:
            world.submit(text, "job", *args, **more)
        assert VALUE not in str(told.value)
        assert not any(VALUE in str(finding) for finding in told.value.diagnostics)
        return told.value.diagnostics

    def test_the_value_of_a_secret_in_a_file_is_refused_where_it_stands(self, world: World) -> None:
        add(world, "HF_TOKEN")
        text = f"workflows:\n  - name: job\n    provider: bash\n    environment: {{A: {VALUE}}}\n    commands: [x]\n"
        (finding,) = self.refused(world, text)
        assert (finding.line, finding.column) == (4, 22)
        assert finding.source == "    environment: {A: ***}"
        assert "secrets.HF_TOKEN" in finding.hint

    def test_in_an_argument(self, world: World) -> None:
        add(world, "HF_TOKEN")
        (finding,) = self.refused(world, ONE, "--token", VALUE)
        assert finding.message == "`***` holds the value of the secret `HF_TOKEN`"

    def test_a_value_that_came_with_the_run(self, world: World) -> None:
        (finding,) = self.refused(world, ONE, "--token", VALUE, values={"HF_TOKEN": VALUE})
        assert finding.file is None

    def test_a_line_of_a_key(self, world: World) -> None:
        pem = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0\n-----END PRIVATE KEY-----\n"
        add(world, "SSH_KEY", pem)
        self.refused(world, f"# MIIEvQIBADANBgkqhkiG9w0\n{ONE}")
        world.submit(f"# -----BEGIN PRIVATE KEY-----\n{ONE}", "job")

    def test_what_may_stand_anywhere(self, world: World) -> None:
        add(world, "REGION", "commands")
        add(world, "MY_KEY", "true")
        world.submit(ONE, "job")

    def test_a_plan_is_refused_too(self, world: World) -> None:
        add(world, "HF_TOKEN")
        with pytest.raises(workflows.Invalid):
            run_service.plan(world.context, world.submission(ONE, "job", VALUE))


MASKED = "HF_TOKEN APIKEY AWS_SECRET_ACCESS_KEY PGPASSWORD db_passwd GOOGLE_CREDENTIALS BASIC_AUTH SECRET KEY_ID"
SHOWN = "SEED MAX_TOKENS TOKENIZERS_PARALLELISM AUTHOR KEYBOARD"


@pytest.mark.parametrize(
    ("name", "masked"), [*((name, True) for name in MASKED.split()), *((name, False) for name in SHOWN.split())]
)
def test_which_callers_values_are_masked(name: str, masked: bool) -> None:
    assert values_service.is_masked(f"env:{name}") is masked
    assert values_service.is_masked(name)


@pytest.mark.parametrize(
    "values", [{"A-B": "x"}, {"A": "x\0y"}, {"A": "x" * 70000}, {f"K{n}": "" for n in range(1001)}]
)
def test_values_that_no_environment_holds_are_refused(world: World, values: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        world.submit(ONE, "job", values=values)


def test_what_seals_and_masks_is_loaded_by_the_first_value_only() -> None:
    """An idle server or runner has no use for it: 9 MB, and as much again for each."""
    program = "import sys, dstack.server.__main__, dstack.runner.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"cryptography", "ahocorasick_rs"} & set(loaded)


def test_the_difference_from_the_commit_shows_no_credential(world: World) -> None:
    add(world, "HF_TOKEN")
    submission = world.submission(ONE, "job", values={"WANDB_API_KEY": "w-0123456789", "SEED": "12345678"})
    diff = f"+token = '{VALUE}'\n+key = 'w-0123456789'\n+seed = 12345678\n"
    name = run_service.submit(world.context, msgspec.structs.replace(submission, diff=diff), None).name
    run_id = world.read(lambda tx: run_id_of(tx, world.context.project_id, name))
    shown = world.read(lambda tx: differences.of_run(tx, world.context.project_id, run_id))
    assert shown == "+token = '***'\n+key = '***'\n+seed = 12345678\n"
