"""Plain data → a provider's `Config`, every error at its place in the file."""

from __future__ import annotations

import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic_core import ErrorDetails, ValidationError

from dstack.sdk.provider import Provider
from dstack.sdk.scalars import shown
from dstack.workflows.aliases import Uses
from dstack.workflows.binding import names_used
from dstack.workflows.diagnostics import Report, Severity, Source
from dstack.workflows.nodes import ListNode, MapNode, Node, ScalarNode
from dstack.workflows.sentences import EXPECTED, sentence
from dstack.workflows.syntax.trouble import quote
from dstack.workflows.variables import Variable, canonical

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Override:
    """A value of the command line in place of the file's: where it went, and what was typed."""

    path: Path
    argument: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked: a workflow's tree in a file, filled in with variables and options."""

    source: Source
    node: Node
    data: Any
    unknown: Collection[int] = ()
    """Ids of nodes that hold a placeholder: what is wrong there is not known yet."""
    variables: Mapping[str, Variable] = field(default_factory=dict[str, Variable])
    overrides: Sequence[Override] = ()


def check(
    config: type[Any], subject: Subject, report: Report, providers: Mapping[str, type[Provider]] | None = None
) -> Any:
    """An instance of `config`, or None after reporting what is wrong. `providers` may know a key that it does not."""
    try:
        return config.model_validate(subject.data)
    except ValidationError as error:
        details = error.errors(include_url=False)
    with report.about(Uses(subject.node)):
        _report_all(config, subject, details, report, providers or {})
    return None


def blame(subject: Subject, path: Path, message: str, hint: str, report: Report, severity: Severity = "error") -> None:
    """Report `message` about the value at `path`: in the file, or in the option that set it."""
    if _blame_option(subject, path, message, hint, report, severity):
        return
    node, at, _ = _place(subject.node, path)
    if not _holds_unknown(subject, node):
        tell = report.error if severity == "error" else report.warning
        with report.about(Uses(subject.node)):
            tell(subject.source, at, message, hint or _values(node, subject.variables))


@dataclass(frozen=True, slots=True)
class _Error:
    """One error of pydantic's; `path` leads through the data, without the names of types that a union tried."""

    path: Path
    kind: str
    message: str
    facts: Mapping[str, Any]
    value: Any
    union: tuple[Path, str] | None = None
    """Where a union stands, and which of its types was tried, for errors of such a try."""
    of_key: bool = False


_MOST_DETAILS = 2000
"""Errors of one value that are looked at; what is wrong with the rest is learned when these are right."""


def _report_all(
    config: type[Any],
    subject: Subject,
    details: Sequence[ErrorDetails],
    report: Report,
    providers: Mapping[str, type[Provider]],
) -> None:
    errors = _one_per_union([_error(detail, subject.data) for detail in details[:_MOST_DETAILS]])
    # A misspelled key is one mistake, not also a missing one.
    meant: set[Path] = set()
    for error in errors:
        if report.full:
            report.error(subject.source, subject.node.at, error.message)
        elif error.kind == "extra_forbidden":
            *parents, key = error.path
            known = _keys(config, tuple(parents))
            near = report.nearest(str(key), known)
            meant.add((*parents, near))
            hint = f"did you mean `{near}`?" if near else f"known keys: {', '.join(known)}"
            if not parents and (owners := [name for name in providers if key in _by_key(providers[name].Config)]):
                hint = f"`{key}` is a key of {', '.join(f'`{name}`' for name in owners)}"
            _blame_key(subject, error.path, f"unknown key `{key}`", hint, report)
    for error in errors:
        if (
            not report.full
            and error.kind != "extra_forbidden"
            and not (error.kind == "missing" and error.path in meant)
        ):
            _report(config, subject, error, report)


def _error(detail: ErrorDetails, data: Any) -> _Error:
    """Pydantic puts names of types into paths; they are told from keys by what the data has."""
    path: list[str | int] = []
    union: tuple[Path, str] | None = None
    parts = detail["loc"]
    of_key = parts[-1:] == ("[key]",)
    for index, part in enumerate(parts[:-1] if of_key else parts):
        holds = isinstance(data, Mapping) if isinstance(part, str) else isinstance(data, list)
        if holds and (part in data if isinstance(part, str) else part < len(cast("list[Any]", data))):
            data = data[part]
        elif path and not (index == len(parts) - 1 and detail["type"] == "missing"):
            union = union or (tuple(path), str(part))
            continue
        path.append(part)
    return _Error(tuple(path), detail["type"], detail["msg"], detail.get("ctx", {}), detail["input"], union, of_key)


def _one_per_union(errors: Sequence[_Error]) -> list[_Error]:
    """Of a union the type that fits best: whose errors lie deepest, then that with the fewest. Types that the value
    does not fit at all are told as alternatives."""
    unions: dict[Path, dict[str, list[_Error]]] = {}
    for error in errors:
        if error.union is not None:
            unions.setdefault(error.union[0], {}).setdefault(error.union[1], []).append(error)
    found: list[_Error] = []
    for error in errors:
        if error.union is None:
            found.append(error)
        if error.union is None or (tries := unions.pop(error.union[0], None)) is None:
            continue
        best = max(tries.values(), key=lambda tried: (min(len(error.path) for error in tried), -len(tried)))
        wanted = list(dict.fromkeys(EXPECTED[tried[0].kind] for tried in tries.values() if tried[0].kind in EXPECTED))
        first = best[0]
        if len(best) == 1 and first.union is not None and first.path == first.union[0] and len(wanted) > 1:
            message = f"expected {' or '.join(wanted)}, not {shown(first.value)}"
            facts = {"message": message, "hint": "", "at": (), "place": "value"}
            best = [_Error(first.path, "dstack", message, facts, first.value)]
        found += best
    return found


def position(subject: Subject, path: Path) -> str:
    """Where the value at `path` stands, as `file:line:col`."""
    _, (line, column), _ = _place(subject.node, path)
    return f"{subject.source.file}:{line}:{column}"


def _report(config: type[Any], subject: Subject, error: _Error, report: Report) -> None:
    path = error.path
    if error.kind == "missing":
        example = _example(config, path)
        _, at, _ = _place(subject.node, path)
        report.error(subject.source, at, f"`{path[-1]}` is missing", f"add `{path[-1]}: {example}`" if example else "")
    elif error.kind == "dstack":
        for context in (error.facts, *error.facts.get("others", ())):
            tell = _blame_key if context["place"] == "key" else blame
            full = (*path, *context["at"])
            hint = context["hint"] or _hint(subject, full, context["message"])
            tell(subject, full, _about(subject, full, context["message"]), hint, report)
    else:
        message = sentence(error.kind, error.message, error.facts, error.value)
        tell = _blame_key if error.of_key else blame
        tell(subject, path, _about(subject, path, message), _hint(subject, path, message), report)


def _hint(subject: Subject, path: Path, message: str) -> str:
    """What YAML made of a value that was meant differently."""
    node, _, _ = _place(subject.node, path)
    if message.startswith("expected text, not a mapping") and isinstance(node, MapNode):
        text = _as_text(subject.source, node)
        return f"`: ` makes it a mapping; put it in quotes: `{quote(text)}`" if text else ""
    if message.startswith("expected a whole number") and isinstance(node, ScalarNode):
        value = node.data
        if isinstance(value, float) and value.is_integer() and abs(value) < 10**15:
            return f"write `{int(value)}`"
    return ""


def _as_text(source: Source, node: MapNode) -> str:
    """A mapping of one entry as it is written, without what follows it; empty where it was hardly meant as text."""
    if len(node.entries) != 1:
        return ""
    ((name, value),) = node.entries.items()
    key = node.keys[name]
    end = value.end if value.end > key.end else key.end + 1  # `key:` alone
    text = source.text[node.start : end].rstrip()
    if key.start != node.start or value.start < key.start or len(text) > 80:
        return ""  # `{` stands before the key, or the value is somewhere else: `key: *name`
    return text if text.isprintable() else ""


def _about(subject: Subject, path: Path, message: str) -> str:
    """The message, saying which key it is about unless it shows what is wrong itself."""
    if not path or message.startswith("`"):
        return message
    _, _, depth = _place(subject.node, path)
    return f"`{_dotted(path[:depth] or path)}`: {message}"


def _blame_key(subject: Subject, path: Path, message: str, hint: str, report: Report) -> None:
    parent, _, _ = _place(subject.node, path[:-1])
    key = parent.keys.get(str(path[-1])) if isinstance(parent, MapNode) else None
    if _blame_option(subject, path, message, hint, report):
        return
    if key is None:
        blame(subject, path, message, hint, report)
    else:
        report.error(subject.source, key.at, message, hint)


def _blame_option(
    subject: Subject, path: Path, message: str, hint: str, report: Report, severity: Severity = "error"
) -> bool:
    for override in subject.overrides:
        if path[: len(override.path)] == override.path:
            report.argument(override.argument, message, hint, severity)
            return True
    return False


def _place(root: Node, path: Path) -> tuple[Node, tuple[int, int], int]:
    """The node at `path`, or the last one on the way to it that exists; where it stands; how deep it is."""
    node = root
    at = root.at
    for depth, part in enumerate(path):
        if isinstance(node, MapNode) and str(part) in node.entries:
            key = node.keys[str(part)]
            node = node.entries[str(part)]
            at = key.at if isinstance(node, ScalarNode) and not node.text else node.at
        elif isinstance(node, ListNode) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            at = node.at
        elif part == 0 and isinstance(node, MapNode):
            continue  # one value is short for a list of it
        else:
            return node, at, depth
    return node, at, len(path)


def _holds_unknown(subject: Subject, node: Node) -> bool:
    return bool(subject.unknown) and any(id(scalar) in subject.unknown for scalar in _scalars(node))


def _scalars(node: Node) -> typing.Iterator[ScalarNode]:
    """The scalars with expressions under `node`."""
    if isinstance(node, ScalarNode):
        yield node
    elif node.dynamic:
        children = node.entries.values() if isinstance(node, MapNode) else cast(ListNode, node).items
        for child in children:
            yield from _scalars(child)


def _values(node: Node, variables: Mapping[str, Variable]) -> str:
    """Where the values of a wrong value's variables come from."""
    if not isinstance(node, ScalarNode):
        return ""
    used = [variables[canonical(name)] for name in names_used(node) if canonical(name) in variables]
    return ", ".join(f"`{variable.name}` is {shown(variable.value)} ({variable.source})" for variable in used)


def _dotted(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _fields(config: type[Any], path: Path) -> dict[str, Any]:
    """The fields, by the key that people write, of the model at `path` of `config`."""
    fields = _by_key(config)
    for part in path:
        if isinstance(part, str) and part in fields and (model := _model(fields[part].annotation)) is not None:
            fields = _by_key(model)
    return fields


def _by_key(model: type[Any]) -> dict[str, Any]:
    return {_key(name, field): field for name, field in model.model_fields.items()}


def _key(name: str, field: Any) -> str:
    """The key that people write for a field; of several spellings the first."""
    choices = getattr(field.validation_alias, "choices", None)
    return str(choices[0]) if choices else field.alias or name


def _model(annotation: Any) -> type[Any] | None:
    if hasattr(annotation, "model_fields"):
        return annotation
    for argument in typing.get_args(annotation):
        if (model := _model(argument)) is not None:
            return model
    return None


def _keys(config: type[Any], path: Path) -> list[str]:
    return list(_fields(config, path))


def _example(config: type[Any], path: Path) -> str:
    field_info = _fields(config, path[:-1]).get(str(path[-1]))
    examples = field_info.examples if field_info is not None else None
    return str(examples[0]) if examples else ""
