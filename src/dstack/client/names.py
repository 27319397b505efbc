"""The names of a repository's workflows and variables, read from its files without a YAML parser where that will do.

Shell completion has 80 ms for everything. What is read line by line: block style, and flow style within one line. What
is written in another way is not found, which costs a suggestion; the server reads the files in full. `dstack run` has
to know whether a word of its own was declared as a variable: only a file that may have it elsewhere is parsed.
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

GLOBAL = "global"


def workflow_names(root: str) -> dict[str, str]:
    """Workflow → its `help`, in the order of the files."""
    found: dict[str, str] = {}
    for text in _texts(root, "workflows"):
        for item in _items(text):
            if item.get("name"):
                found.setdefault(item["name"], item.get("help", ""))
    return found


def workflow_provider(root: str, workflow: str) -> str:
    """What a workflow names as its provider, or the one that stands for none; empty where that is not found."""
    for text in _texts(root, "workflows"):
        for item in _items(text):
            if item.get("name") == workflow:
                return item.get("provider") or ("docker" if "image" in item else "bash" if "commands" in item else "")
    return ""


def variable_choices(root: str, workflow: str, name: str) -> list[str]:
    """What the variable `name` of a run of `workflow` may be, if it is declared so. The file is read in full."""
    from typing import cast

    section, dot, own = name.rpartition(".")
    sections = _sections(root)
    for place in (section,) if dot else (workflow, GLOBAL):
        for known, declared in sections.get(place, {}).items():
            if _canonical(known) != _canonical(own) or not isinstance(declared, dict):
                continue
            about = cast("dict[str, Any]", declared)
            choices = about.get("choices")
            if isinstance(choices, list):
                return [str(choice) for choice in cast("list[Any]", choices)]
            return ["true", "false"] if about.get("type") == "bool" else []
    return []


def variable_names(root: str) -> dict[str, list[str]]:
    """Section (a workflow, or `global`) → its variables."""
    found: dict[str, list[str]] = {}
    for text in _texts(root, "variables"):
        for section, name in _variables(text):
            found.setdefault(section, []).append(name)
    return found


def declares(root: str, words: Iterable[str]) -> set[str]:
    """Those of `words` (`some-name`) that are variables. A file that may have one in another style is read in full."""
    wanted = set(words)
    found: set[str] = set()
    for text in _texts(root, "variables"):
        names = {_canonical(name) for _, name in _variables(text)}
        if any(_mentions(text, word) for word in wanted - names):
            names |= {_canonical(name) for name in _read_whole(text)}
        found |= wanted & names
    return found


def _files(root: str, kind: str) -> list[str]:
    base = f"{root}/.dstack/{kind}"
    found = [path for path in (f"{base}.yaml", f"{base}.yml") if os.path.isfile(path)]
    if kind == "workflows" and os.path.isdir(base):
        for folder, folders, files in os.walk(base):
            folders.sort()
            found += (f"{folder}/{name}" for name in sorted(files) if name.endswith((".yaml", ".yml")))
    return found


def _texts(root: str, kind: str) -> Iterator[str]:
    for path in _files(root, kind):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                yield file.read()
        except OSError:
            continue  # whoever runs something is told of it


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """(indentation, content) of lines that say something."""
    for line in text.splitlines():
        content = line.lstrip(" ")
        if content and content[0] not in "#\t" and content.rstrip() not in ("---", "..."):
            yield len(line) - len(content), content.rstrip()


def _items(text: str) -> Iterator[dict[str, str]]:
    """`name` and `help` of each entry of the list under `workflows:`."""
    at = keys = -1
    """The columns of the list's dashes, and of the keys behind them."""
    item: dict[str, str] = {}
    for indent, content in _lines(text):
        if content.startswith("- ") and at in (-1, indent):
            at = indent
            if item:
                yield item
            entry = content[1:].lstrip(" ")
            item = dict(_flow(entry)) if entry.startswith("{") else dict([_pair(entry)])
            keys = indent + len(content) - len(entry)
        elif at >= 0 and indent == keys and not content.startswith("- "):
            key, value = _pair(content)
            item.setdefault(key, value)
        elif at >= 0 and indent < at:
            at = -1
    if item:
        yield item


def _variables(text: str) -> Iterator[tuple[str, str]]:
    inside = False
    section, sections, names = "", -1, -1
    for indent, content in _lines(text):
        key, value = _pair(content)
        if indent == 0:
            inside, sections = key == "variables", -1
        elif inside and sections in (-1, indent):
            section, sections, names = key, indent, -1
            for name, _ in _flow(value) if value.startswith("{") else ():
                yield section, name
        elif inside and indent > sections and names in (-1, indent):
            names = indent
            yield section, key


def _canonical(name: str) -> str:
    return name.replace("_", "-")


def _mentions(text: str, word: str) -> bool:
    """Whether `word` may be a key of `text`, in any style."""
    name = re.escape(word).replace(r"\-", "[-_]")
    return re.search(rf"""(?:^|[\s{{,'"]){name}['"]?\s*(?::|$)""", text, re.MULTILINE) is not None


def _read_whole(text: str) -> Iterator[str]:
    for section in _parsed(text).values():
        yield from section


def _sections(root: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for text in _texts(root, "variables"):
        found.update(_parsed(text))
    return found


def _parsed(text: str) -> dict[str, dict[str, Any]]:
    """The sections of a variables file, every value a text, a list or a mapping; what cannot be read is left out."""
    from typing import cast

    import yaml

    try:
        root = cast("object", yaml.load(text, yaml.CBaseLoader))  # noqa: S506 - texts, lists and mappings only
    except yaml.YAMLError:
        return {}  # whoever runs something is told of it
    sections = cast("dict[str, object]", root).get("variables") if isinstance(root, dict) else None
    if not isinstance(sections, dict):
        return {}
    return {
        str(name): {str(key): value for key, value in cast("dict[str, Any]", section).items()}
        for name, section in cast("dict[str, object]", sections).items()
        if isinstance(section, dict)
    }


def _pair(content: str) -> tuple[str, str]:
    key, _, value = content.partition(":")
    return _plain(key), _plain(value)


def _plain(text: str) -> str:
    """A scalar without its quotes or the comment behind it."""
    text = text.strip()
    if text[:1] in ("'", '"'):
        end = text.find(text[0], 1)
        return text[1:end] if end > 0 else text[1:]
    return text.partition(" #")[0].rstrip()


def _flow(text: str) -> Iterator[tuple[str, str]]:
    """The pairs of `{key: value, …}`, without what lies deeper."""
    depth, quote, start = 0, "", 1
    for index, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
            continue
        if character in "'\"":
            quote = character
        elif character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
        if (character == "," and depth == 1) or (character == "}" and depth == 0):
            if ":" in text[start:index]:
                yield _pair(text[start:index])
            start = index + 1
        if depth == 0 and index:
            return
