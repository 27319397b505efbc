"""What the tests read out of the project's pages: fenced blocks, inline code, links, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<info>[^`\n]*)\n(?P<text>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: `info` is what stands after the fence, such as `bash run`; `line` is where its text begins."""

    info: str
    text: str
    line: int


def pages() -> list[Path]:
    """Every page of the project that people read, relative to its root."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    return sorted(path.relative_to(ROOT) for path in found)


def blocks(text: str) -> list[Block]:
    return [
        Block(match["info"].strip(), match["text"], text.count("\n", 0, match.start("text")) + 1)
        for match in _FENCE.finditer(text)
    ]


def inline_code(text: str) -> Iterator[tuple[int, str]]:
    """(line, code) of each piece of code within a sentence or table."""
    prose = _without_blocks(text)
    for match in _INLINE.finditer(prose):
        yield prose.count("\n", 0, match.start()) + 1, match[1].replace("\\|", "|")


def links(text: str) -> Iterator[tuple[int, str]]:
    """(line, target) of each link."""
    prose = _INLINE.sub(lambda match: " " * len(match[0]), _without_blocks(text))
    for match in _LINK.finditer(prose):
        yield prose.count("\n", 0, match.start()) + 1, match[1]


def anchors(text: str) -> set[str]:
    """What `#…` may name in a page: its headings as GitHub writes them."""
    headings = (match[1] for match in _HEADING.finditer(_without_blocks(text)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _without_blocks(text: str) -> str:
    """`text` with every block's lines empty, so that line numbers stay."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
