"""`dstack runs RUN --diff`: what the code of a run had beyond its commit."""

from __future__ import annotations

import re
import sys

from dstack.cli.render import is_coloured, say
from dstack.client.api import Api

_COLOURS = {"+": "32", "-": "31", "@": "36"}
_HEADS = (
    "diff ",
    "index ",
    "--- ",
    "+++ ",
    "new file ",
    "deleted file ",
    "old mode ",
    "new mode ",
    "rename ",
    "similarity ",
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def show_difference(api: Api, name: str) -> None:
    """The text as it is; in a terminal with colours, and without what would move the cursor."""
    run = api.run(name)
    text = api.diff(name)
    commit, branch = run.get("commit"), run.get("branch")
    at = f"commit {commit[:10]}{f' of {branch}' if branch else ''}" if commit else "a folder without a commit"
    if not text:
        say(f"{name} ran the code of {at}, without changes.")
        return
    say(f"{name} ran the code of {at}, and these changes:")
    if sys.stdout.isatty():
        text = "".join(_line(line) for line in text.splitlines(keepends=True))
    sys.stdout.write(text)
    sys.stdout.flush()


def _line(line: str) -> str:
    body = line.rstrip("\n")
    shown = _CONTROL.sub(lambda found: f"^{chr(ord(found[0]) ^ 64)}" if found[0] < "\x80" else "?", body)
    colour = "1" if body.startswith(_HEADS) else _COLOURS.get(body[:1])
    end = line[len(body) :]
    return f"\x1b[{colour}m{shown}\x1b[0m{end}" if colour and is_coloured(sys.stdout) else shown + end
