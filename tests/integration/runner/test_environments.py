"""Python environments made by the real uv, from wheels made here: no network."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import os
import subprocess
import sys
import time
import uuid
import zipfile
from pathlib import Path

import pytest

from dstack.runner import environments, pythons
from dstack.runner.environments import EnvironmentManager, Interpreter, Order, SetupError
from dstack.runner.executors import tree
from dstack.runner.kept import Limits
from dstack.sdk.provider import PythonEnv

VERSION = f"3.{sys.version_info.minor}"


def wheel(folder: Path, name: str, version: str, body: str = "", requires: str = "") -> Path:
    """A real wheel of one module."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": body or f"version = {version!r}\n",
        f"{info}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},\n"
        for path, text in files.items()
    )
    folder.mkdir(exist_ok=True)
    target = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, text in (*files.items(), (f"{info}/RECORD", record + f"{info}/RECORD,,\n")):
            archive.writestr(path, text)
    return target


class Bench:
    """A repository, a folder of wheels and a manager, all in one temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.code = folder / "code"
        self.code.mkdir()
        self.wheels = folder / "wheels"
        self.root = folder / "envs"
        self.manager = EnvironmentManager(self.root)
        self.output: list[bytes] = []
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_NO_INDEX": "1",
            "UV_CACHE_DIR": str(folder / "uv-cache"),
        }

    def order(self, *requirements: str, version: str | None = None) -> Order:
        spec = PythonEnv(version=version, requirements=requirements)
        return Order(uuid.uuid4(), spec, self.code, self.environment, sys.executable, f"3.{sys.version_info.minor}")

    def prepare(self, *requirements: str, version: str | None = None) -> Interpreter:
        return asyncio.run(self.manager.prepare(self.order(*requirements, version=version), self.output.append))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def run(interpreter: Interpreter, code: str) -> str:
    return subprocess.run([interpreter.path, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_second_use_installs_nothing_and_runs_no_program(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(bench.wheels, "alpha", "1.0", requires="beta")
    wheel(bench.wheels, "beta", "2.0")
    (bench.code / "requirements.txt").write_text("alpha  # the first\n")
    made = bench.prepare("-r requirements.txt")
    assert run(made, "import alpha, beta; print(alpha.version, beta.version)") == "1.0 2.0"
    assert b" + alpha==1.0\n" in b"".join(bench.output)
    assert all(part.endswith(b"\n") for part in bench.output)
    bench.output.clear()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a program was run")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    assert bench.prepare("-r requirements.txt") == made
    assert bench.output == []


def test_what_it_holds_is_listed_for_the_attempt_that_works_in_it(bench: Bench) -> None:
    wheel(bench.wheels, "alpha", "1.0", requires="beta")
    wheel(bench.wheels, "beta", "2.0")

    async def use() -> None:
        kept = bench.manager.kept
        built, found, empty, shells = (
            bench.order("alpha"),
            bench.order("alpha"),
            bench.order(version=VERSION),
            bench.order(),
        )
        for order in (built, found, empty, shells):
            await bench.manager.prepare(order, bench.output.append)
        assert kept.packages(built.attempt_id) == kept.packages(found.attempt_id) == ("alpha==1.0", "beta==2.0")
        assert kept.packages(empty.attempt_id) == ()
        assert kept.packages(shells.attempt_id) is None
        await kept.release(built.attempt_id)
        assert kept.packages(built.attempt_id) is None

    asyncio.run(use())


def test_what_is_too_much_goes_and_what_is_used_stays(bench: Bench) -> None:
    for name in ("alpha", "beta", "gamma"):
        wheel(bench.wheels, name, "1.0")
    manager = EnvironmentManager(bench.root, limits=Limits(count=1))

    async def use() -> None:
        orders = [bench.order(name) for name in ("alpha", "beta", "gamma")]
        first, second, third = [await manager.prepare(order, bench.output.append) for order in orders]
        assert await manager.kept.evict() == []
        for order in orders[:2]:
            await manager.kept.release(order.attempt_id)
        assert await manager.kept.evict() == [first.key, second.key]
        assert sorted(path.name for path in bench.root.iterdir()) == sorted([third.key, f"{third.key}.lock"])
        again = await manager.prepare(orders[0], bench.output.append)
        assert again == first
        assert run(again, "import alpha; print(alpha.version)") == "1.0"

    asyncio.run(use())


def test_what_defines_it_is_in_its_key(bench: Bench) -> None:
    one = wheel(bench.code, "alpha", "1.0", "value = 1\n")
    (bench.code / "a.txt").write_text(f"./{one.name}\n")
    first = bench.prepare("-r a.txt")
    assert run(first, "import alpha; print(alpha.value)") == "1"
    wheel(bench.code, "alpha", "1.0", "value = 2\n")
    second = bench.prepare("-r a.txt")
    assert second.key != first.key
    assert run(second, "import alpha; print(alpha.value)") == "2"
    assert run(first, "import alpha; print(alpha.value)") == "1"


def test_an_editable_project_is_the_attempts_own_and_goes_with_it(bench: Bench) -> None:
    wheel(bench.wheels, "alpha", "1.0")
    (bench.code / "setup.py").write_text("")

    async def use() -> None:
        order = bench.order("alpha", "./alpha.whl")
        (bench.code / "alpha.whl").mkdir()  # a folder: its contents may change unseen
        with pytest.raises(SetupError):
            await bench.manager.prepare(order, bench.output.append)
        assert list(bench.root.glob("attempt-*.lock"))
        await bench.manager.kept.release(order.attempt_id)
        assert not list(bench.root.glob("attempt-*"))

    asyncio.run(use())


def test_neither_version_nor_requirements_is_the_shells_python_as_it_is(bench: Bench) -> None:
    found = bench.prepare()
    assert found == Interpreter(Path(sys.executable), Path(sys.executable).parent)
    assert not any(bench.root.iterdir())


def test_on_another_host_it_is_an_environment_of_the_same_minor_version(bench: Bench) -> None:
    version = f"3.{sys.version_info.minor}"
    order = Order(uuid.uuid4(), None, bench.code, {**bench.environment, "PATH": str(Path(sys.executable).parent)})
    order = Order(order.attempt_id, None, bench.code, order.environment, "/not/here/python3", f"{version}.1")
    made = asyncio.run(bench.manager.prepare(order, bench.output.append))
    assert made.key
    assert run(made, "import sys; print('%d.%d' % sys.version_info[:2])") == version


def test_a_version_that_is_present_can_be_asked_for(bench: Bench, tmp_path: Path) -> None:
    """Whatever the shell's own Python is: here one that would answer nothing."""
    shell = tmp_path / "python3"
    shell.write_text("#!/bin/sh\nexit 1\n")
    shell.chmod(0o755)
    environment = {**bench.environment, "HOME": os.environ.get("HOME", "/")}
    present = list(pythons.minor_versions(environment))
    asked = {f"3.{sys.version_info.minor}", present[-1]}
    assert asked <= set(present)
    keys: set[str] = set()
    for version in asked:
        order = Order(uuid.uuid4(), PythonEnv(version), bench.code, environment, str(shell), "3.4.0")
        made = asyncio.run(bench.manager.prepare(order, bench.output.append))
        assert run(made, "import sys; print('%d.%d' % sys.version_info[:2])") == version
        assert made.path.is_relative_to(bench.root)
        keys.add(made.key)
    assert len(keys) == len(asked)


def test_an_absent_version_names_those_present(bench: Bench) -> None:
    order = Order(uuid.uuid4(), PythonEnv("3.4", asked_at="w.yaml:7:14"), bench.code, bench.environment)
    told = r"^w\.yaml:7:14: Python 3\.4 is not installed on this machine; present: "
    with pytest.raises(SetupError, match=told) as caught:
        asyncio.run(bench.manager.prepare(order, bench.output.append))
    assert f"3.{sys.version_info.minor}" in str(caught.value)


def test_a_requirement_that_is_not_to_be_had_is_named_with_its_place(bench: Bench) -> None:
    wheel(bench.wheels, "alpha", "1.0")
    (bench.code / "r.txt").write_text("alpha\nno-such-thing>=2\n")
    with pytest.raises(SetupError) as caught:
        bench.prepare("-r r.txt")
    text = str(caught.value)
    assert "could not be installed: `no-such-thing>=2` (r.txt:2)" in text
    assert "uv says: " in text
    assert "no-such-thing was not found" in text
    # The log has uv's words already.
    assert "could not be installed: `no-such-thing>=2` (r.txt:2). " in caught.value.said
    assert "was not found in" not in caught.value.said
    assert b"no-such-thing" in b"".join(bench.output)
    wheel(bench.wheels, "no_such_thing", "2.1")
    assert bench.prepare("-r r.txt").key, "a failure must not stand in the way of the next try"


def test_what_was_half_built_is_built_anew(bench: Bench) -> None:
    wheel(bench.wheels, "alpha", "1.0")
    made = bench.prepare("alpha")
    assert made.venv is not None
    (made.venv / "dstack-complete.json").unlink()  # an agent killed just before the last rename
    (made.venv / "half").touch()
    again = bench.prepare("alpha")
    assert again == made
    assert not (made.venv / "half").exists()


def test_many_attempts_at_once_build_it_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(bench.wheels, "alpha", "1.0")
    started: list[tuple[object, ...]] = []
    real = asyncio.create_subprocess_exec

    async def counted(*arguments: str, **options: object) -> asyncio.subprocess.Process:
        started.append(arguments[1:3])
        return await real(*arguments, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", counted)

    async def use() -> set[str]:
        other = EnvironmentManager(bench.root)
        orders = [manager.prepare(bench.order("alpha"), bench.output.append) for manager in (bench.manager, other) * 4]
        return {found.key for found in await asyncio.gather(*orders)}

    assert len(asyncio.run(use())) == 1
    assert started.count(("pip", "install")) == 1


@pytest.mark.parametrize("begun", [0, 1], ids=["while it starts", "while it works"])
def test_cancelling_ends_uv_and_frees_the_lock(bench: Bench, tmp_path: Path, begun: int) -> None:
    slow = tmp_path / "uv"
    slow.write_text(f"#!/bin/sh\nsleep 1000 &\necho $$ $! >>{tmp_path}/pids\nwait\n")
    slow.chmod(0o755)
    manager = EnvironmentManager(bench.root, slow)

    async def use() -> None:
        task = asyncio.create_task(manager.prepare(bench.order("alpha"), bench.output.append))
        while not (tmp_path / "pids").exists():
            # Not begun: the loop stands still while uv runs on, so it cannot have heard of uv's start.
            await asyncio.sleep(0.01 * begun)
            time.sleep(0.02)  # noqa: ASYNC251 - it is the point
        await asyncio.sleep(0.05 * begun)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(use())
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        entry = tree.read_entry(pid)
        assert entry is None or entry.zombie
    (lock,) = bench.root.glob("*.lock")
    with open(lock, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_no_uv_is_said_in_words(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = EnvironmentManager(bench.root, tmp_path / "gone")
    with pytest.raises(SetupError, match=r"uv cannot be run .*gone: No such file or directory.; reinstall dstack"):
        asyncio.run(manager.prepare(bench.order("alpha"), bench.output.append))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="uv was not found"):
        environments.find_uv()
