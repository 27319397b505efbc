"""Scalars that remember how they were written: an unquoted `3.10` is the number 3.1 and the text `3.10`.

Types follow the YAML 1.2 core schema, not 1.1: `yes` and `on` are text, `1e-3` is a number, `017` is seventeen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

Scalar = str | int | float | bool | None

_WORDS: dict[str, Scalar] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    # `True` and `TRUE` stay text, so that `commands: [True]` runs what was written; fields of flags read them too.
    "true": True,
    "false": False,
}
_NUMBER_START = frozenset("0123456789+-.")
# Digits are bounded: Python refuses to convert very long ones, and a float of that length is no number anyone meant.
_INT = re.compile(r"[-+]?[0-9]{1,18}|0x[0-9a-fA-F]{1,15}|0o[0-7]{1,20}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,40}|[0-9]{1,40}(?:\.[0-9]{0,40})?)(?:[eE][-+]?[0-9]{1,4})?")


class YamlInt(int):
    """A whole number whose spelling is not the usual one, such as `017` or `0x1F`."""

    text: str


class YamlFloat(float):
    """A number with a fraction or exponent, and its spelling."""

    text: str


def parse_scalar(text: str) -> Scalar:
    """The value of an unquoted scalar: None, a bool, a number that remembers its text, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_START:
        return text
    if _INT.fullmatch(text):
        number = int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        if str(number) == text:
            return number
        odd = YamlInt(number)
        odd.text = text
        return odd
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        fraction = YamlFloat(text)
        fraction.text = text
        return fraction
    return text


def text_of(value: object) -> str:
    """A scalar as it was written; the empty text for null."""
    if isinstance(value, str):
        return value
    if isinstance(value, YamlInt | YamlFloat):
        return value.text
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def same(left: Scalar, right: Scalar) -> bool:
    """Whether two values are one: numbers by what they are, everything else by how it is written."""
    if _is_number(left) and _is_number(right):
        return left == right
    return text_of(left) == text_of(right)


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: object) -> str:
    """What a value is, in words for people."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    text = text_of(value)
    return f"`{text if len(text) <= 60 else text[:60] + '…'}`"


def plain(value: Scalar) -> Scalar:
    """`value` without its memory: a JSON scalar that shows what was written (`"3.10"`, but `2` and `0.5`)."""
    if isinstance(value, YamlInt | YamlFloat):
        number: Scalar = float(value) if isinstance(value, YamlFloat) else int(value)
        return number if str(number) == value.text else value.text
    return value
