"""Write the text of `dstack --help` into `src/dstack/cli/helptext.py`, so that showing it imports nothing."""

from __future__ import annotations

from pathlib import Path

from dstack.cli.commands import summary

TARGET = Path(__file__).parent.parent / "src" / "dstack" / "cli" / "helptext.py"


def content() -> str:
    return (
        '"""The text of `dstack --help`. Written by scripts/generate_help.py from dstack.cli.commands."""\n\n'
        f'HELP = """\\\n{summary()}"""\n'
    )


if __name__ == "__main__":
    TARGET.write_text(content(), encoding="utf-8")
