"""What a variable may be: `{default, type, choices, min, max, help}` in the variables file.

A declaration without `default` has to be given on the command line. Values of the file and of the command line are
held against it alike; a plain value (`epochs: 10`) is checked by nothing, unless `global` declares its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from dstack.sdk.scalars import Scalar, YamlFloat, parse_scalar, same, shown, text_of
from dstack.workflows.diagnostics import Report, Source
from dstack.workflows.nodes import ListNode, MapNode, Node, ScalarNode

Type = Literal["int", "float", "bool", "str", "path"]
TYPES: tuple[Type, ...] = get_args(Type)
KEYS = ("default", "type", "choices", "min", "max", "help")
MAX_CHOICES = 1000

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
TRUTHS = (*_TRUE, *_FALSE)
"""How a `bool` may be written, in any case."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the values of a variable have to be; `type` is None where only the other keys say something."""

    type: Type | None = None
    choices: tuple[Scalar, ...] = ()
    min: int | float | None = None
    max: int | float | None = None
    help: str = ""

    def read(self, value: Scalar) -> Scalar:
        """`value` (of YAML, or text of the command line) as the type has it; raises WrongValue.

        Nothing, as a default of `null` says it, fits every type.
        """
        if value is None:
            return None
        read = _READERS[self.type](value)
        if (self.min, self.max) != (None, None):
            number = _number(read)
            if self.min is not None and number < self.min:
                raise WrongValue(f"must be at least {text_of(self.min)}, not {shown(value)}")
            if self.max is not None and number > self.max:
                raise WrongValue(f"must be at most {text_of(self.max)}, not {shown(value)}")
        if self.choices and not any(same(read, choice) for choice in self.choices):
            raise WrongValue(f"must be one of {_listing(self.choices)}, not {shown(value)}")
        return read


class WrongValue(ValueError):
    """A value that its declaration does not allow; the message continues `NAME …`."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A declaration as the file has it, and its default; `has_default` tells a default of nothing from none."""

    declaration: Declaration
    default: Scalar = None
    has_default: bool = False


def read(source: Source, name: str, node: MapNode, report: Report) -> Declared | None:
    """The declaration of the variable `name`; None after reporting what is wrong."""
    return _Reader(source, name, node, report).read()


class _Reader:
    def __init__(self, source: Source, name: str, node: MapNode, report: Report) -> None:
        self.source = source
        self.name = name
        self.node = node
        self.report = report

    def read(self) -> Declared | None:
        errors = self.report.errors
        for key, place in self.node.keys.items():
            if key not in KEYS:
                hint = self.report.near(key, KEYS) or f"known keys: {', '.join(KEYS)}"
                self.report.error(self.source, place.at, f"unknown key `{key[:60]}`", hint)
        type_ = self._type()
        help_ = self._scalar("help")
        bounds = Declaration(type_, (), self._bound("min", type_), self._bound("max", type_), text_of(help_))
        if bounds.min is not None and bounds.max is not None and bounds.min > bounds.max:
            self._wrong("max", f"`max` is less than `min`, {text_of(bounds.min)}")
        choices = self._choices(bounds)
        declaration = Declaration(type_, choices, bounds.min, bounds.max, bounds.help)
        # Against a declaration that is wrong itself, only the type is held.
        default = self._default(declaration if self.report.errors == errors else Declaration(type_))
        if self.report.errors != errors:
            return None
        return Declared(declaration, default, "default" in self.node.entries)

    def _type(self) -> Type | None:
        value = self._scalar("type")
        if "type" not in self.node.entries or value is None:
            return None
        for known in TYPES:
            if value == known:
                return known
        hint = self.report.near(text_of(value), TYPES) or f"known: {', '.join(TYPES)}"
        self._wrong("type", f"there is no type {shown(value)}", hint)
        return None

    def _bound(self, key: str, type_: Type | None) -> int | float | None:
        value = self._scalar(key)
        if value is None:
            return None
        if type_ not in (None, "int", "float"):
            self._wrong(key, f"`{key}` is for numbers, and `{self.name}` is a {type_}", f"remove `{key}`")
            return None
        try:
            return _number(value)
        except WrongValue as error:
            self._wrong(key, f"`{key}` {error}")
            return None

    def _choices(self, bounds: Declaration) -> tuple[Scalar, ...]:
        node = self.node.entries.get("choices")
        if node is None:
            return ()
        if not isinstance(node, ListNode) or not node.items:
            self._wrong("choices", "`choices` must be a list of values", "write for example `choices: [sgd, adam]`")
            return ()
        if len(node.items) > MAX_CHOICES:
            self._wrong("choices", f"`choices` has more than {MAX_CHOICES:,} values")
            return ()
        return tuple([self._fitting(f"a choice of `{self.name}`", item, bounds) for item in node.items])

    def _default(self, declaration: Declaration) -> Scalar:
        node = self.node.entries.get("default")
        return None if node is None else self._fitting(f"the default of `{self.name}`", node, declaration)

    def _fitting(self, what: str, node: Node, declaration: Declaration) -> Scalar:
        value = self._single(what, node)
        try:
            return declaration.read(value)
        except WrongValue as error:
            self.report.error(self.source, node.at, f"{what} {error}")
            return None

    def _scalar(self, key: str) -> Scalar:
        node = self.node.entries.get(key)
        return None if node is None else self._single(f"`{key}`", node)

    def _single(self, what: str, node: Node) -> Scalar:
        if not isinstance(node, ScalarNode):
            self.report.error(self.source, node.at, f"{what} must be a single value", "not a list or mapping")
        elif node.template is not None:
            self.report.error(self.source, node.at, f"{what} holds an expression", "write the value out")
        elif "\0" in node.text:
            self.report.error(self.source, node.at, f"{what} must not hold a zero byte")
        else:
            return node.data
        return None

    def _wrong(self, key: str, message: str, hint: str = "") -> None:
        self.report.error(self.source, self.node.entries[key].at, message, hint)


def _number(value: Scalar) -> int | float:
    number = parse_scalar(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise WrongValue(f"must be a number, not {shown(value)}")
    return number


def _int(value: Scalar) -> Scalar:
    number = parse_scalar(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise WrongValue(f"must be a whole number, not {shown(value)}")
    return number


def _float(value: Scalar) -> Scalar:
    number = _number(value)
    if isinstance(number, float):
        return number
    # A job that is promised a fraction gets one, spelled as it was written.
    fraction = YamlFloat(number)
    fraction.text = text_of(number)
    return fraction


def _bool(value: Scalar) -> Scalar:
    word = text_of(value).lower()
    if word not in TRUTHS:
        raise WrongValue(f"must be true or false, not {shown(value)}")
    return word in _TRUE


def _path(value: Scalar) -> Scalar:
    text = text_of(value)
    if not text or any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise WrongValue("must be the path of a file or folder" + (f", not {shown(value)}" if text else ""))
    return text


_READERS: dict[Type | None, Callable[[Scalar], Scalar]] = {
    None: lambda value: value,
    "int": _int,
    "float": _float,
    "bool": _bool,
    "str": text_of,
    "path": _path,
}


def _listing(choices: tuple[Scalar, ...]) -> str:
    told = ", ".join(text_of(choice) for choice in choices[:20])
    return told + (f" and {len(choices) - 20} more" if len(choices) > 20 else "")
