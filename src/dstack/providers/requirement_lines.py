"""What is surely wrong with a line of requirements, told before anything is installed.

A line is `NAME[EXTRAS] VERSIONS; MARKER`, or `NAME @ URL` (PEP 508), with versions as PEP 440 has them. What is more
than that, such as options, paths and addresses, is left to the installer.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_EXTRAS = re.compile(r"\s*\[\s*(?:[A-Za-z0-9][\w.-]*\s*(?:,\s*[A-Za-z0-9][\w.-]*\s*)*)?\]")
_VERSION = r"v?\d[A-Za-z0-9.!+_-]*(?:\.\*)?"
_CLAUSE = re.compile(rf"\s*(?:===\s*\S+|(?:==|~=|!=|<=|>=|<|>)\s*{_VERSION})\s*")
_OPERATOR = re.compile(r"\s*(===|==|~=|!=|<=|>=|<|>|=)")
_COMMENT = re.compile(r"(^|\s)#.*$")
_OPTIONS = re.compile(r"\s--[a-z].*$")
_NOT_A_NAME = re.compile(r"[/\\:@]|\$\{|\.(?:whl|zip|tar|tgz|txt)\b")


def trouble(line: str) -> str:
    """What is wrong with one requirement; empty where nothing is known to be."""
    line = _OPTIONS.sub("", _COMMENT.sub("", line)).partition(";")[0].strip()
    if not line or line.startswith(("-", ".")) or _NOT_A_NAME.search(line):
        return ""
    name = _NAME.match(line)
    if name is None:
        return "it begins with no name of a package"
    rest = line[name.end() :]
    extras = _EXTRAS.match(rest)
    rest = rest[extras.end() :] if extras is not None else rest
    if not rest:
        return ""
    if not rest[0].isspace() and rest[0] not in "=~!<>([":
        return f"`{rest[0]}` cannot stand in a name"
    return _versions(rest.strip(), name[0][:100])


def _versions(text: str, name: str) -> str:
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    if text.startswith("["):
        return "the `[` of its extras is not closed, or holds no names"
    if _OPERATOR.match(text) is None:
        return f"`{text[:40]}` after the name is no version"
    for clause in text.rstrip(", ").split(","):
        operator = _OPERATOR.match(clause)
        if operator is None:
            return f"`{clause.strip()[:40]}` is no version: write for example `{name}>=1.2,<2`"
        if operator[1] == "=":
            return f"versions are compared with `==`: write `{name}=={clause[operator.end() :].strip()[:40] or '1.2'}`"
        if not clause[operator.end() :].strip():
            return f"no version follows `{operator[1]}`"
        if _CLAUSE.fullmatch(clause) is None:
            return f"`{clause[operator.end() :].strip()[:40]}` is no version"
    return ""
