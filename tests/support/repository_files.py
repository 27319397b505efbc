"""More states of `repositories`: files, names, links and rules that are hard to ship."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path

from tests.support.repositories import POINTER, STATES, WORKFLOWS, State, commit, committed, git, project, put, state

__all__ = ["ODD_NAMES", "STATES"]


@state
def lfs_pointers(folder: Path) -> State:
    committed(folder)
    put(folder, ".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    put(folder, "models/.gitattributes", "weights filter=lfs -text\n")
    put(folder, "a.bin", POINTER)
    put(folder, "fetched.bin", bytes(range(256)) * 10)
    put(folder, "models/weights", POINTER)
    put(folder, "about-lfs.txt", POINTER)
    return State(
        says=["Git LFS pointers go as they are, without the files that they stand for: a.bin, models/weights ("]
    )


@state
def line_ends(folder: Path) -> State:
    committed(folder)
    git(folder, "config", "core.autocrlf", "true")
    put(folder, ".gitattributes", "*.txt text eol=crlf\n*.sh text eol=lf\n")
    put(folder, "crlf.txt", "a\r\nb\r\n")
    put(folder, "mixed.py", "a\r\nb\nc\r")
    commit(folder)
    put(folder, "crlf.txt", "a\nb\n")
    put(folder, "lf.sh", "echo\r\n")
    return State()


@state
def binary_and_large_files(folder: Path) -> State:
    committed(folder)
    put(folder, "weights.npy", os.urandom(3_000_000))
    put(folder, "zeros", bytes(700_000))
    put(folder, "empty", b"")
    put(folder, "no-end", "no newline at the end")
    put(folder, "latin-1.txt", "gr\xfc\xdfe".encode("latin-1"))
    with open(folder / "sparse", "wb") as file:
        file.seek(5_000_000)
        file.write(b"end")
    return State()


@state
def modes(folder: Path) -> State:
    committed(folder)
    git(folder, "config", "core.fileMode", "false")
    put(folder, "run.sh", "#!/bin/sh\n").chmod(0o755)
    put(folder, "private.key").chmod(0o600)
    put(folder, "read-only").chmod(0o444)
    put(folder, "odd").chmod(0o741)
    put(folder, "tool/bin/x").chmod(0o775)
    (folder / "tool").chmod(0o751)
    (folder / "train.py").chmod(0o755)
    os.link(folder / "run.sh", folder / "same.sh")
    return State()


@state
def links(folder: Path) -> State:
    committed(folder)
    put(folder, "data/x.csv")
    for name, target in {
        "a-file": "train.py",
        "a-folder": "lib",
        "nowhere": "missing",
        "itself": "itself",
        "out": "../..",
        "absolute": "/etc/hostname",
        "lib/up": "../train.py",
        "to-ignored": "data/x.csv",
        "newline\n": "a\nb",
    }.items():
        (folder / name).symlink_to(target)
    git(folder, "add", "a-file", "a-folder")
    (folder / "lib" / "net.py").unlink()
    (folder / "lib" / "net.py").symlink_to("../train.py")
    return State(
        "data",
        says=["absolute → /etc/hostname (an absolute path), itself → itself (nothing is there), newline\\n → a\\nb"],
    )


@state
def files_and_folders_that_changed_places(folder: Path) -> State:
    committed(folder)
    put(folder, "was-file")
    put(folder, "was-folder/a.py")
    put(folder, "was-link-target/b.py")
    put(folder, "becomes-link/b.py")
    put(folder, "emptied/c.py")
    commit(folder)
    (folder / "was-file").unlink()
    put(folder, "was-file/inside.py")
    put(folder, "was-file/inside.log")
    (folder / "was-folder" / "a.py").unlink()
    (folder / "was-folder").rmdir()
    put(folder, "was-folder", "a file now\n")
    # What git has below the link is not there, although it can be reached.
    (folder / "becomes-link" / "b.py").unlink()
    (folder / "becomes-link").rmdir()
    (folder / "becomes-link").symlink_to("was-link-target")
    (folder / "emptied" / "c.py").unlink()
    (folder / "emptied").rmdir()
    return State("was-file/inside.log")


ODD_NAMES = (
    " leading", "trailing ", "in the middle", "-rf", "--help", "*", "?", "[a]", "!x", "#x", "~", "$HOME", "`id`",
    "'", '"', "back\\slash", "new\nline", "tab\t", "\x01\x7f", "\r", "\x1b[31mred", "emoji-🦆", "née", "ne\u0301e",
    "ＦＵＬＬ", "\u202eltr", "Makefile", "makefile", "MAKEFILE", "CON", "aux.py", "nul", "COM1", "a:b", "dot.", "...",
    "..a", ".hidden", "x" * 255, "é" * 127,
)  # fmt: skip


@state
def odd_names(folder: Path) -> State:
    committed(folder)
    names = [*(os.fsencode(name) for name in ODD_NAMES), b"\xff\xfe", b"caf\xe9.py", b"\xc3("]
    for number, name in enumerate(names):
        below = os.path.join(os.fsencode(folder), b"odd", name)
        os.makedirs(below if number % 3 == 0 else os.path.dirname(below), exist_ok=True)
        with open(os.path.join(below, name) if number % 3 == 0 else below, "wb") as file:
            file.write(name)
    git(folder, "add", "odd/CON", "odd/née")
    return State()


@state
def odd_names_without_git(folder: Path) -> State:
    odd_names(folder)
    subprocess.run(["rm", "-r", str(folder / ".git")], check=True)
    return State()


@state
def a_folder_of_a_larger_repository(folder: Path) -> State:
    top = folder
    git(top, "init", "-q")
    put(top, ".gitignore", "*.log\n/proj [1]/secret\n")
    put(top, "other/big.py")
    inner = project(top / "proj [1]" / "model")
    put(inner, ".dstackignore", "/scratch/\n*.tmp\n")
    put(inner, "a.tmp")
    put(inner, "out.log")
    put(inner, "scratch/x.py")
    put(inner, "lib/scratch/y.py")
    commit(top)
    put(inner, "new.py")
    put(inner, "scratch/new.py")
    return State("a.tmp", "out.log", "scratch", root="proj [1]/model")


@state
def ignored_by_a_repository_above(folder: Path) -> State:
    git(folder, "init", "-q")
    put(folder, ".gitignore", "/copy/\n")
    project(folder / "copy")
    return State(root="copy")


@state
def no_files_at_all(folder: Path) -> State:
    committed(folder)
    for path in ("train.py", "lib/net.py", ".gitignore"):
        (folder / path).unlink()
    (folder / "lib").rmdir()
    return State()


@state
def ignore_files(folder: Path) -> State:
    committed(folder)
    put(
        folder,
        ".dstackignore",
        "data2/*\n!data2/keep/\ndata2/keep/*\n!data2/keep/a.csv\n\n# no\nsecret.env\n/top-only\n",
    )
    put(folder, "lib/.dstackignore", "!secret.env\nlocal-*\n")
    for path in (
        "data2/x.csv", "data2/keep/a.csv", "data2/keep/b.csv", "secret.env", "lib/secret.env", "lib/local-1",
        "local-2", "top-only/a", "lib/top-only",
    ):  # fmt: skip
        put(folder, path)
    git(folder, "add", "-f", "secret.env", "data2/x.csv")
    return State("data2/x.csv", "data2/keep/b.csv", "secret.env", "lib/local-1", "top-only")


@state
def code_patterns(folder: Path) -> State:
    committed(folder)
    text = (folder / WORKFLOWS).read_text()
    include = "    code: {include: ['/data/*.csv', '!/data/b.csv', models/], exclude: ['*.md', /lib/old/]}\n"
    put(folder, WORKFLOWS, text + include)
    put(folder, ".gitignore", "*.log\n/data/\nmodels/\n")
    put(folder, ".dstackignore", "*.secret\n")
    for path in (
        "data/a.csv", "data/b.csv", "data/c.txt", "data/deep/d.csv", "models/m.bin", "lib/models/n.bin", "README.md",
        "lib/old/x.py", "models/key.secret", "models/.venv/x",
    ):  # fmt: skip
        put(folder, path)
    commit(folder)
    return State("data/b.csv", "data/c.txt", "data/deep", "README.md", "lib/old", "models/key.secret")


@state
def special_files(folder: Path) -> State:
    committed(folder)
    os.mkfifo(folder / "lib" / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(folder)  # the address of a socket is short
        try:
            listener.bind("a.sock")
            listener_ignored = socket.socket(socket.AF_UNIX)
            listener_ignored.bind("b.log")
            listener_ignored.close()
        finally:
            os.chdir(here)
    says = "not shipped: a.sock (a socket), lib/pipe (a named pipe)"
    stays = ["lib/pipe", "a.sock", "b.log"]
    if os.geteuid() == 0:
        os.mknod(folder / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        says += ", null (a device)"
        stays.append("null")
    return State(*stays, says=[says + "\n"])


@state
def special_files_without_git(folder: Path) -> State:
    project(folder)
    os.mkfifo(folder / "pipe")
    (folder / "pipes").mkdir()
    os.mkfifo(folder / "pipes" / "a")
    return State("pipe", "pipes", says=["not shipped: pipe (a named pipe), pipes/a (a named pipe)\n"])


@state
def a_git_folder_that_leads_nowhere(folder: Path) -> State:
    project(folder)
    put(folder, ".git", "gitdir: /nonexistent/worktrees/x\n")
    put(folder, ".gitignore", "*.log\n")
    put(folder, "out.log")
    return State(says=["all files are shipped, also those that a .gitignore names"])
