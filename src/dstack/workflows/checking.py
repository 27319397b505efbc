"""Plain data → a provider's `Config`, every error at its place in the file."""

from __future__ import annotations

import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic_core import ErrorDetails, ValidationError

from dstack.sdk.scalars import shown
from dstack.workflows.binding import names_used
from dstack.workflows.diagnostics import Report, Severity, Source
from dstack.workflows.nodes import ListNode, MapNode, Node, ScalarNode
from dstack.workflows.variables import Variable, canonical

Path = tuple[str | int, ...]

# Words for what pydantic says about plain types, which providers outside this project may use as they are.
_SENTENCES = {
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "string_type": "expected text",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "dict_type": "expected `key: value` lines",
    "model_type": "expected `key: value` lines",
    "too_short": "must not be empty",
}


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


def check(config: type[Any], subject: Subject, report: Report) -> Any:
    """An instance of `config`, or None after reporting what is wrong."""
    try:
        return config.model_validate(subject.data)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if report.full:
                report.error(subject.source, subject.node.at, detail["msg"])
            else:
                _report(config, subject, detail, report)
    return None


def blame(subject: Subject, path: Path, message: str, hint: str, report: Report, severity: Severity = "error") -> None:
    """Report `message` about the value at `path`: in the file, or in the option that set it."""
    if _blame_option(subject, path, message, hint, report, severity):
        return
    node, at, _ = _place(subject.node, path)
    if not _holds_unknown(subject, node):
        tell = report.error if severity == "error" else report.warning
        tell(subject.source, at, message, hint or _values(node, subject.variables))


def _report(config: type[Any], subject: Subject, detail: ErrorDetails, report: Report) -> None:
    path: Path = detail["loc"]
    kind = detail["type"]
    if kind == "extra_forbidden":
        known = _keys(config, path[:-1])
        hint = report.near(str(path[-1]), known) or f"known keys: {', '.join(known)}"
        _blame_key(subject, path, f"unknown key `{path[-1]}`", hint, report)
    elif kind == "missing":
        example = _example(config, path)
        _, at, _ = _place(subject.node, path)
        report.error(subject.source, at, f"`{path[-1]}` is missing", f"add `{path[-1]}: {example}`" if example else "")
    elif kind == "dstack":
        first = detail.get("ctx", {})
        for context in (first, *first.get("others", ())):
            tell = _blame_key if context["place"] == "key" else blame
            full = (*path, *context["at"])
            tell(subject, full, _about(subject, full, context["message"]), context["hint"], report)
    else:
        message = detail["msg"]
        if kind in _SENTENCES:
            message = _SENTENCES[kind]
            message += f", not {shown(detail['input'])}" if message.startswith("expected") else ""
        blame(subject, path, _about(subject, path, message), "", report)


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
