"""Every `dstack` command and option that a page names exists, and every command that exists is on a page."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from dstack.workflows.options import OPTIONS, SHORT
from tests.docs.markdown import ROOT, blocks, inline_code, pages

DSTACK = Path(sys.executable).with_name("dstack")
LATER = {Path("docs/contributing/claims.md"), Path("docs/design/interfaces.md")}
"""Pages that quote what is asked for or agreed on, not what there is."""

_CALL = re.compile(r"(?:^|[|;&(`]|\bdo |\bthen )\s*dstack ((?:\\\n|[^\n|;&()`])*)", re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")
_COMMAND = re.compile(r"[a-z][a-z-]*")
_VARIABLE = re.compile(r"^ {4,}([\w-]+):", re.MULTILINE)


@cache
def help_of(*command: str) -> str | None:
    """What `dstack COMMAND --help` prints; None when there is no such command."""
    done = subprocess.run([DSTACK, *command, "--help"], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else None


def listed(text: str | None) -> set[str]:
    """The commands that a help text lists under its heading `Commands`."""
    if text is None or "Commands:" not in text:
        return set()
    section = text.split("Commands:", 1)[1]
    return set(re.findall(r"^  ([a-z][a-z-]*)", section, re.MULTILINE))


def calls(page: Path) -> Iterator[tuple[int, str]]:
    """(line, what stands after `dstack`) of every use of the program on a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in blocks(text):
        if block.info.split(" ")[0] in {"bash", "console", "sh"}:
            for match in _CALL.finditer(block.text):
                yield block.line + block.text.count("\n", 0, match.start()), match[1]
    for line, code in inline_code(text):
        if code.startswith("dstack "):
            yield line, code.removeprefix("dstack ")


USES = sorted({(str(page), line, use) for page in pages() if page not in LATER for line, use in calls(page)})


@pytest.mark.parametrize(("page", "line", "use"), USES)
def test_what_a_page_types_exists(page: str, line: int, use: str) -> None:
    where = f"{page}:{line}: dstack {use}"
    plain = re.sub(r"[\[\]…]", " ", use).split(" -- ")[0]
    words = plain.split()
    if not words or not _COMMAND.fullmatch(words[0]):
        text = help_of()
        assert text is not None, "dstack --help failed"
        options = words
        command: tuple[str, ...] = ()
    else:
        command = (words[0],)
        text = help_of(*command)
        assert text is not None, f"{where}: there is no command {words[0]!r}"
        options = words[1:]
        # `server start|status|stop` and `artifacts list RUN`: each alternative is a command of its own.
        subcommands = listed(text)
        if subcommands and options and re.fullmatch(r"[a-z][a-z-]*(\|[a-z-]+)*", options[0]):
            for name in options[0].split("|"):
                assert name in subcommands, f"{where}: there is no command {' '.join((*command, name))!r}"
            command = (*command, options[0].split("|")[0])
            text = help_of(*command)
            assert text is not None, f"{where}: {' '.join(command)} --help failed"
    known = set(_OPTION.findall(text))
    if command == ("run",):
        known |= declared_variables() | {f"--{name}" for name in OPTIONS} | {f"-{letter}" for letter in SHORT}
    unknown = [option for option in _OPTION.findall(" ".join(options)) if option not in known]
    assert not unknown, f"{where}: {' '.join(command)} knows no {', '.join(unknown)}"


@cache
def declared_variables() -> set[str]:
    """`--name` for each variable of the examples and of the YAML on the pages; any of them may follow `dstack run`."""
    texts = [path.read_text(encoding="utf-8") for path in ROOT.glob("examples/**/variables.y*ml")]
    for page in pages():
        texts += [
            block.text for block in blocks((ROOT / page).read_text(encoding="utf-8")) if "variables:" in block.text
        ]
    return {f"--{name}" for text in texts for name in _VARIABLE.findall(text)} | {"--VARIABLE"}


def test_every_command_is_on_a_page() -> None:
    commands = listed(help_of())
    assert commands, "dstack --help lists no commands"
    used = {use.split()[0] for _, _, use in USES if use.split()}
    assert commands <= used, f"no page shows: {', '.join(sorted(commands - used))}"


def test_options_are_found_where_they_stand() -> None:
    assert _OPTION.findall("run [-d] --plan --repo=DIR -t TAG a-b x--y") == ["-d", "--plan", "--repo", "-t"]
    assert [match[1].strip() for match in _CALL.finditer('a && dstack run x | dstack logs "$(dstack runs)"\n')] == [
        "run x",
        'logs "$',
        "runs",
    ]
