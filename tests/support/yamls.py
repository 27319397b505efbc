"""The project's YAML texts, and what they hold as plain data, expressions as they are written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dstack.workflows.composing import compose
from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.nodes import ListNode, MapNode, Node, ScalarNode
from tests.docs.markdown import ROOT, blocks, pages

FOLDERS = ("examples", "tests/scenarios")


def data_of(text: str) -> Any:
    """What `text` holds, as dstack reads YAML."""
    report = Report()
    node = compose(Source("f.yaml", text), report)
    assert not report.errors, report.diagnostics()
    return _data(node)


def _data(node: Node | None) -> Any:
    if isinstance(node, MapNode):
        return {key: _data(value) for key, value in node.entries.items()}
    if isinstance(node, ListNode):
        return [_data(item) for item in node.items]
    if isinstance(node, ScalarNode) and node.dynamic:
        return node.text
    return None if node is None else node.data


def repositories() -> Iterator[tuple[str, dict[str, str]]]:
    """(where it is, YAML texts by path) of every repository of the project: in folders, and blocks on pages."""
    for folder in FOLDERS:
        for dstack in sorted((ROOT / folder).rglob(".dstack")):
            found = sorted(path for path in dstack.parent.rglob("*") if path.suffix in (".yaml", ".yml"))
            texts = {str(path.relative_to(dstack.parent)): _read(path) for path in found if path.is_file()}
            yield str(dstack.parent.relative_to(ROOT)), texts
    for page in pages():
        for block in blocks((ROOT / page).read_text(encoding="utf-8")):
            for kind in ("workflows", "variables"):
                if block.info == "yaml" and f"{kind}:" in block.text.splitlines():
                    yield f"{page}:{block.line}", {f".dstack/{kind}.yaml": block.text}


def _read(path: Path) -> str:
    """The text; the scenarios' own place-holders are filled in."""
    text = path.read_text(encoding="utf-8")
    return text.replace("@python@", "3.11").replace("@http@", "http://localhost")
