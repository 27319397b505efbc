"""How jobs start and end, with real processes (F20)."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from pathlib import Path

import pytest

from dstack.runner.executors import cgroup
from dstack.runner.executors.interface import Exit, Launch, StartError, Survivors
from dstack.runner.executors.process import ProcessExecutor
from tests.support.jobs import make_launch, spool


def run(launch: Launch, groups: cgroup.Groups | None = None) -> Exit:
    async def job() -> Exit:
        executor = ProcessExecutor(groups)
        end = await executor.start(launch).wait()
        assert await executor.sweep(launch.attempt_id) == Survivors()
        return end

    return asyncio.run(job())


@pytest.mark.parametrize(
    ("script", "end"),
    [
        (("true",), Exit(0)),
        (("exit 1",), Exit(1)),
        (("exit 2",), Exit(2)),
        (("exit 137",), Exit(137, signal.SIGKILL)),
        (("exit 143",), Exit(143, signal.SIGTERM)),
        (("kill -SEGV $$",), Exit(139, signal.SIGSEGV)),
        (("kill -KILL $$",), Exit(137, signal.SIGKILL)),
        (("kill -TERM $$",), Exit(143, signal.SIGTERM)),
        (("kill -TERM 0", "sleep 10"), Exit(143, signal.SIGTERM)),
        (("false | true", "echo not reached"), Exit(1)),
        (("nosuchprogram",), Exit(127)),
        (("/",), Exit(126)),
    ],
    ids=lambda value: " ; ".join(value) if isinstance(value, tuple) else "",
)
def test_ends(tmp_path: Path, groups: cgroup.Groups | None, script: tuple[str, ...], end: Exit) -> None:
    launch = make_launch(tmp_path, *script)
    assert run(launch, groups) == end
    assert b"not reached" not in spool(launch)


def test_lines_share_one_shell_and_the_spool_has_exactly_what_they_wrote(tmp_path: Path) -> None:
    launch = make_launch(tmp_path, "x=1; cd /", 'echo "$x $PWD" >&2', "printf 'a\\0b\\r\\033[1m'", env={"NAME": "v w"})
    assert run(launch) == Exit(0)
    assert spool(launch) == b"1 /\na\0b\r\x1b[1m"
    assert stat.S_IMODE((launch.folder / "spool").stat().st_mode) == 0o600


def test_a_killed_program_adds_no_word_of_the_shell_to_the_log(tmp_path: Path) -> None:
    launch = make_launch(tmp_path, "echo before", "kill -KILL $$")
    run(launch)
    assert spool(launch) == b"before\n"


def test_a_program_runs_without_a_shell_and_its_arguments_arrive_as_they_are(tmp_path: Path) -> None:
    arguments = ("a b", "$HOME", "", "*", "-n", "'\"\\", "é\n")
    launch = make_launch(tmp_path, argv=("printf", "<%s>", *arguments))
    assert run(launch) == Exit(0)
    assert spool(launch) == "".join(f"<{each}>" for each in arguments).encode()


def test_a_builtin_of_the_shell_is_not_mistaken_for_a_program(tmp_path: Path) -> None:
    assert run(make_launch(tmp_path, argv=("exit", "3"))).code == 127


def test_the_job_sees_its_environment_its_folder_and_clean_signals(tmp_path: Path) -> None:
    odd = {"odd.name": "1", "A": "line\nbreak", "OLDPWD": "/nowhere", "_": "x"}
    code = "import os, signal; print(sorted(os.environ), os.getcwd(), os.getsid(0) == os.getppid() or os.getsid(0)); "
    code += "print(signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL, os.read(0, 1), os.environ['A'])"
    launch = make_launch(tmp_path, argv=("/usr/bin/env", "python3", "-c", code), env=odd)
    assert run(launch) == Exit(0)
    text = spool(launch).decode()
    for name in ("A", "PATH", "DSTACK_ATTEMPT_ID", "odd.name"):
        assert f"'{name}'" in text
    assert str(launch.folder) in text
    assert text.endswith("b'' line\nbreak\n")


def test_sigpipe_is_not_ignored_in_the_job(tmp_path: Path) -> None:
    launch = make_launch(tmp_path, "set +o pipefail", "yes | head -n 1", 'echo "${PIPESTATUS[0]}"')
    assert run(launch) == Exit(0)
    assert spool(launch) == b"y\n141\n"


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("nosuchprogram", "x"), 127, "the program 'nosuchprogram' was not found on PATH ("),
        (("./nosuch.sh",), 127, "the program './nosuch.sh' was not found in "),
        (("./plain.txt",), 126, "plain.txt is not executable; run `chmod +x` on it or name its interpreter"),
        (("printf", "a\0b"), 126, "cannot be passed on: embedded null byte"),
    ],
    ids=["unknown", "unknown path", "not executable", "NUL"],
)
def test_what_cannot_be_executed_is_said_in_words(tmp_path: Path, argv: tuple[str, ...], code: int, words: str) -> None:
    launch = make_launch(tmp_path, argv=argv)
    (launch.folder / "plain.txt").write_text("data")
    end = run(launch)
    assert end.code == code
    assert words in end.sentence()
    assert spool(launch) == f"dstack: {end.detail}\n".encode()


def test_a_working_directory_that_is_not_there_is_said_in_words(tmp_path: Path) -> None:
    made = make_launch(tmp_path, "true")
    launch = Launch(made.attempt_id, made.folder, tmp_path / "gone", made.env, script=made.script)
    end = run(launch)
    assert (end.code, end.sentence()) == (126, f"the working directory {tmp_path}/gone does not exist")


def test_a_long_script_runs(tmp_path: Path) -> None:
    launch = make_launch(tmp_path, *(f": {'x' * 1000} {number}" for number in range(300)), "echo end")
    assert run(launch) == Exit(0)
    assert spool(launch) == b"end\n"


def test_an_attempt_is_never_started_twice(tmp_path: Path) -> None:
    launch = make_launch(tmp_path, "echo once")
    run(launch)
    with pytest.raises(FileExistsError):
        run(launch)
    assert spool(launch) == b"once\n"


def test_what_the_machine_refuses_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    made = make_launch(tmp_path, "true")
    gone = Launch(made.attempt_id, tmp_path / "nofolder", tmp_path, made.env, script=made.script)
    with pytest.raises(StartError, match=f"could not be started: No such file or directory .{tmp_path}/nofolder"):
        run(gone)
    with pytest.raises(StartError, match="longer than this system allows"):
        run(make_launch(tmp_path, "true", env={f"V{number}": "x" * 100_000 for number in range(40)}))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_named_and_does_not_hide_the_end(tmp_path: Path) -> None:
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=True)
    try:
        launch = make_launch(small, "set +e; head -c 1000000 /dev/zero; exit 7")
        assert run(launch) == Exit(7)
        with pytest.raises(StartError, match=f"disk full on {small}/[0-9a-f]+: the job was not started; free some"):
            run(make_launch(small, "true"))
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="limiting a group's memory needs root")
def test_an_out_of_memory_kill_is_told_apart_from_a_kill(tmp_path: Path) -> None:
    found, why = cgroup.detect()
    assert found is not None, why
    limit = "for f in /sys/fs/cgroup/memory; do echo $((32 << 20)) >$f$(sed -n 's/.*:memory://p' /proc/self/cgroup)"
    limit += "/memory.limit_in_bytes; done 2>/dev/null || "
    limit += "echo $((32 << 20)) >/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/memory.max"
    hog = "python3 -c 'x = bytearray(1 << 28); print(len(x))'"
    made = make_launch(tmp_path, limit, hog)
    launch = Launch(made.attempt_id, made.folder, made.cwd, made.env, script=made.script, memory_events=True)
    end = run(launch, found)
    assert end == Exit(137, signal.SIGKILL, oom=True)
    assert end.sentence().endswith("out of memory")
