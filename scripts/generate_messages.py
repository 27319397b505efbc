"""Write what is said about the wrong files of docs/reference/messages.md into the page.

Each case is a heading with the files, as `yaml wrong PATH` or `text wrong PATH` blocks (without PATH: the workflows
file); where a command is given, as a `text command` block, what `dstack run` says, else what `dstack validate` says, as
a `text says` block.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.messages import told  # noqa: E402 - found through the line above

PAGE = ROOT / "docs" / "reference" / "messages.md"
WORKFLOWS = ".dstack/workflows.yaml"
ELSE = "workflows:\n  - name: train\n    provider: bash\n    commands: [./train.sh]\n"
"""The workflows file of cases that are about another one."""

_CASE = re.compile(r"^### (?P<title>[^\n]+)\n(?P<body>.*?)^```text says\n(?P<says>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^```(?:yaml|text) wrong ?(?P<path>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^```text command\ndstack run (?P<words>.*)\n```$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Case:
    title: str
    files: dict[str, str]
    arguments: list[str]
    says: str
    """What the page says."""
    start: int
    end: int

    def told(self) -> str:
        """What the code says."""
        return told(self.files, self.arguments)


def cases(page: str) -> Iterator[Case]:
    for match in _CASE.finditer(page):
        files = {found["path"] or WORKFLOWS: found["text"] for found in _FILE.finditer(match["body"])}
        command = _COMMAND.search(match["body"])
        words = shlex.split(command["words"]) if command is not None else []
        yield Case(match["title"], {WORKFLOWS: ELSE, **files}, words, match["says"], *match.span("says"))


def written(page: str) -> str:
    """The page with what the code says."""
    parts: list[str] = []
    position = 0
    for case in cases(page):
        parts += [page[position : case.start], case.told()]
        position = case.end
    return "".join(parts) + page[position:]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
