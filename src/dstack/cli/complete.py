"""What a shell offers while a command line is typed: `dstack __complete SHELL LINE`, called by what `dstack completion`
prints.

It has 80 ms from the key to the list, so it starts no server and parses no YAML, but for the values of a variable:
options come from a table that is generated, workflows and variables from a scan of the files, runs and tags from the
server if one listens, or else from what it said last.
"""

from __future__ import annotations

import os
import sys

from dstack.cli.commands import ALIASES, COMMANDS
from dstack.cli.completions import ARGUMENTS, OPTIONS, PROVIDER_OPTIONS, PROVIDERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    Candidate = tuple[str, str]

ASK = 0.25
"""Seconds for a server that listens to answer."""
FILES = "files"
"""The kind of a word for which the shell's own completion of file names is right."""


def complete(arguments: list[str]) -> int:
    """Print what may stand where `LINE` ends, one candidate a line, with a tab and what it is behind it."""
    shell, line = (*arguments, "", "")[:2]
    words = split(line)
    current = words.pop() if words else ""
    found = [item for item in candidates(words[1:], current) if item[0].startswith(current)]
    if shell == "fish" and not found:
        found = list(_paths(current))
    sys.stdout.write("".join(f"{_shown(shell, current, name)}{_about(shell, about)}\n" for name, about in found))
    sys.stdout.flush()
    return 0


def split(line: str) -> list[str]:
    """The words of a command line as far as it was typed; the last one is empty behind a blank."""
    words, word, quote, started = list[str](), "", "", False
    escaped = False
    for character in line:
        if escaped:
            word, escaped = word + character, False
        elif character == "\\" and quote != "'":
            escaped = started = True
        elif quote:
            word, quote = (word, "") if character == quote else (word + character, quote)
        elif character in "'\"":
            quote, started = character, True
        elif character.isspace():
            if started:
                words.append(word)
            word, started = "", False
        else:
            word, started = word + character, True
    return [*words, word]


def candidates(words: list[str], current: str) -> Iterable[Candidate]:
    """Of the word behind `words` (without `dstack`), all that it may be; the caller keeps those that fit."""
    if not words:
        yield from ((name, about) for name, (_, _, about) in COMMANDS.items())
        if current:
            yield from ((alias, f"the same as {name}") for alias, name in ALIASES.items())
            yield from (("--help", "Show what there is."), ("--version", "Show the version."))
        return
    command, rest = ALIASES.get(words[0], words[0]), words[1:]
    if command == "run":
        yield from _of_run(rest, current)
        return
    nested = {key.partition(" ")[2] for key in OPTIONS if key.startswith(f"{command} ")}
    if rest and rest[0] in nested:
        command, rest = f"{command} {rest[0]}", rest[1:]
    elif nested and not rest:
        yield from ((name, "") for name in sorted(nested))
    options = OPTIONS.get(command, ())
    values = {flag: kind for flags, kind, _ in options for flag in flags}
    if rest and values.get(rest[-1]):
        yield from _of_kind(values[rest[-1]])
    elif current.startswith("-"):
        # The first long spelling is the one of today; more are of 2022.
        yield from ((next(flag for flag in flags if flag.startswith("--")), about) for flags, _, about in options)
    else:
        kinds = ARGUMENTS.get(command, ())
        at = len(_positional(rest, values))
        if kinds and (at < len(kinds) or kinds[-1].endswith("*")):
            yield from _of_kind(kinds[min(at, len(kinds) - 1)].rstrip("*"), taken=rest)


def _positional(words: list[str], values: dict[str, str]) -> list[str]:
    """Those of `words` that are neither options nor their values."""
    found: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-") and len(word) > 1:
            skip = bool(values.get(word))
        else:
            found.append(word)
    return found


def _of_run(words: list[str], current: str) -> Iterator[Candidate]:
    """`dstack run`: options of its own, a workflow, and then what that takes."""
    from dstack.cli.options import FLAGS, VALUES

    if "--" in words:
        return
    if words and words[-1] in VALUES:
        yield from _of_kind("tag" if VALUES[words[-1]] == "tag" else FILES)
        return
    root = _root(words)
    values = dict.fromkeys(VALUES, FILES)
    named = _positional(words, values)
    if named and root and (given := _variable_before(words, current)) is not None:
        yield from _choices(root, named[0], *given)
    elif current.startswith("-"):
        if named and root:
            yield from ((f"--{name}", about) for name, about in _variables(root, named[0]))
        yield from ((option, "") for option in (*FLAGS, *VALUES) if option.startswith("--"))
        if named:
            yield from ((f"--{name}", "of the provider") for name in PROVIDER_OPTIONS[_provider(root, named[0])])
    elif not named:
        yield from _of_kind("workflow", root=root)
        yield from ((name, "a provider: its words follow") for name in PROVIDERS)


def _provider(root: str | None, name: str) -> str:
    """Which provider's options stand behind `name`, a workflow or a provider."""
    from dstack.client.names import workflow_names, workflow_provider

    found = workflow_provider(root, name) if root and name in workflow_names(root) else name
    return found if found in PROVIDER_OPTIONS else ""


def _variable_before(words: list[str], current: str) -> tuple[str, str] | None:
    """(the name of the option whose value comes here, what stands before the value in the same word)."""
    if current.startswith("--") and "=" in current:
        option = current.partition("=")[0]
        return option[2:], f"{option}="
    if current.startswith("-") or not words or not words[-1].startswith("--") or "=" in words[-1]:
        return None
    return words[-1][2:], ""


def _choices(root: str, workflow: str, variable: str, before: str) -> Iterator[Candidate]:
    from dstack.client.names import variable_choices

    yield from ((f"{before}{choice}", f"for {variable}") for choice in variable_choices(root, workflow, variable))


def _root(words: list[str]) -> str | None:
    from dstack.client.repository import find_root

    for at, word in enumerate(words):
        if word == "--repo" and at + 1 < len(words):
            return os.path.realpath(words[at + 1])
        if word.startswith("--repo="):
            return os.path.realpath(word[7:])
    return find_root()


def _of_kind(kind: str, *, taken: Iterable[str] = (), root: str | None = None) -> Iterator[Candidate]:
    """All values of one kind, without those that were given already."""
    if kind.startswith("choice:"):
        yield from ((name, "") for name in kind[7:].split(","))
    elif kind == "workflow":
        from dstack.client.names import workflow_names
        from dstack.client.repository import find_root

        root = root or find_root()
        yield from workflow_names(root).items() if root else ()
    elif kind == "profile":
        from dstack.client.profiles import ProfileError, config_path, read_profiles
        from dstack.embedded import home_folder

        try:
            yield from (
                (name, profile.get("server", "")) for name, profile in read_profiles(config_path(home_folder())).items()
            )
        except ProfileError:
            return  # the command itself says so
    elif kind in ("run", "tag", "run-or-tag", "tag-or-run"):
        names = _names()
        tags = [(f":{tag}" if kind == "run-or-tag" else tag, "a tag") for tag in names.get("tags", [])]
        runs = [(run["name"], f"{run['workflow']}, {run['status']}") for run in names.get("runs", [])]
        parts = {"run": [runs], "tag": [tags], "run-or-tag": [runs, tags], "tag-or-run": [tags, runs]}[kind]
        yield from (item for part in parts for item in part if item[0] not in taken)


def _variables(root: str, workflow: str) -> Iterator[Candidate]:
    from dstack.client.names import GLOBAL, variable_names

    sections = variable_names(root)
    for section in (workflow, GLOBAL):
        yield from ((name, f"a variable of {workflow}") for name in sections.get(section, []))
    for section, names in sections.items():
        if section not in (workflow, GLOBAL):
            yield from ((f"{section}.{name}", f"a variable of {section}") for name in names)


def _names() -> dict[str, Any]:
    """The names of runs and tags: the server's, or those that it gave last."""
    import json

    from dstack.cli.session import Session
    from dstack.client.api import names_target
    from dstack.client.repository import find_root, identify
    from dstack.client.wire import WireError

    session = Session()
    root = find_root()
    repository = identify(root) if root else None
    key = repository.get("key", "") if repository else ""
    memory = f"{session.home}/cli/names/{_file_name(session.address, key)}.json"
    target = names_target(session.target.project, repository)
    try:
        transport = session.connector.find() if session.connector else _near(session)
        if transport is None:
            raise WireError("nobody listens")
        try:
            text = transport.request("GET", target, timeout=ASK).read()
        finally:
            transport.close()
        found = json.loads(text)
        if "runs" not in found:
            raise WireError("no answer of ours")
    except (WireError, ValueError):
        try:
            with open(memory, encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError):
            return {}
    _remember(memory, text)
    return found


def _near(session: Any) -> Any:
    """A connection to a server of this machine; others are too far for a key press."""
    from dstack.cli.session import connect_to
    from dstack.client.wire import SocketTransport

    transport = connect_to(session.target)() if not session.address.startswith("https:") else None
    return transport if isinstance(transport, SocketTransport) else None


def _file_name(*parts: str) -> str:
    import binascii

    return f"{binascii.crc32(repr(parts).encode()):08x}"


def _remember(path: str, text: bytes) -> None:
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(f"{path}.{os.getpid()}", "wb") as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError:
        pass  # only a memory


def _paths(current: str) -> Iterator[Candidate]:
    """Files, for the shell that offers none by itself."""
    folder, slash, start = current.rpartition("/")
    try:
        entries = sorted(os.scandir(folder or (slash or ".")), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(start) and (start or not entry.name.startswith(".")):
            yield f"{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}", ""


def _shown(shell: str, current: str, name: str) -> str:
    # bash takes what stands behind a colon or an equals sign for a word of its own.
    if shell == "bash":
        return name[max(current.rfind(":"), current.rfind("=")) + 1 :]
    return name


def _about(shell: str, about: str) -> str:
    if shell == "bash" or not about:
        return ""
    return "\t" + " ".join(about.split())
