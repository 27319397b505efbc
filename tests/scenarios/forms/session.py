"""A session at a terminal, written down: commands, what they print, and how they end.

$ dstack run show
what is printed, to the letter
2> part of a line on standard error
[3]                                    the exit code, where it is not 0
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Command:
    line: str
    prints: list[str] = field(default_factory=list[str])
    complains: list[str] = field(default_factory=list[str])
    """What standard error holds, among other things."""
    code: int = 0


def read(text: str) -> list[Command]:
    """The commands of a session."""
    commands: list[Command] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append(Command(line[2:]))
        elif line.startswith("2> "):
            commands[-1].complains.append(line[3:])
        elif line.startswith("[") and line.endswith("]") and line[1:-1].isdigit():
            commands[-1].code = int(line[1:-1])
        else:
            commands[-1].prints.append(line)
    return commands
