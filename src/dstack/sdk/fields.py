"""The types that keys of workflows are made of, and how a validator says what is wrong.

Values arrive as YAML types them, with numbers that remember their spelling (`dstack.sdk.scalars`); the types here read
text where a key wants text, so that `version: 3.10` is "3.10" and `commands: [true]` runs `true`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from dstack.domain.resources import parse_memory
from dstack.sdk.scalars import shown, text_of

MAX_MEMORY = 2**60
MAX_COUNT = 100_000
MAX_ITEMS = 25_000
MAX_SECONDS = 366 * 86_400

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class Section(BaseModel):
    """A mapping within a workflow: no other keys than its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def wrong(
    message: str, hint: str = "", at: tuple[str | int, ...] = (), place: Literal["key", "value"] = "value"
) -> PydanticCustomError:
    """The error for a validator to raise: `at` is the path, from the value being validated, of what is wrong."""
    # A message is a template to pydantic: what people typed must not be read as fields of it.
    context = {"message": message, "hint": hint, "at": at, "place": place}
    return PydanticCustomError("dstack", "{message}", context)


def together(errors: Sequence[PydanticCustomError]) -> PydanticCustomError:
    """Several errors of one value as one, for a validator to raise."""
    first, *others = errors
    context = {**(first.context or {}), "others": tuple(other.context or {} for other in others)}
    return PydanticCustomError("dstack", "{message}", context)


def listed(value: object) -> Sequence[object]:
    """One value is short for a list of it, nothing for an empty list."""
    if isinstance(value, list | tuple):
        items = cast("Sequence[object]", value)
        if len(items) > MAX_ITEMS:
            raise wrong(f"has more than {MAX_ITEMS:,} items")
        return items
    return [] if value is None else [value]


def text(value: object) -> str:
    """A scalar as it was written; it must not be blank."""
    found = value if type(value) is str else spelled(value)
    if not found.strip():
        raise wrong("must not be empty")
    if "\0" in found:
        raise wrong("must not hold a zero byte")
    return found


def spelled(value: object) -> str:
    """A scalar as it was written, which may be nothing."""
    if isinstance(value, str | bool | int | float):
        return text_of(value)
    raise wrong(f"expected text, not {shown(value)}")


def relative_path(path: str) -> str:
    """A path within the working copy, normalised: no `./`, no trailing `/`. Raises what `wrong` makes."""
    if path.startswith(("/", "~")):
        raise wrong(f"`{path}` is an absolute path", "write it relative to the repository, such as `data`")
    if ".." in path.split("/"):
        raise wrong(f"`{path}` leads out of the repository", "`..` is not allowed here")
    if any(ord(char) < 32 for char in path):
        raise wrong("a path must not hold control characters")
    return posixpath.normpath(path)


def _folder(path: str) -> str:
    found = relative_path(path)
    if found == ".":
        raise wrong(f"`{path}` is the whole working copy", "name the folder that holds the output")
    return found


def count(value: object) -> int:
    """A whole number from 0, also as text."""
    number: object = value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool):
        raise wrong(f"expected a whole number, not {shown(value)}")
    if not 0 <= number <= MAX_COUNT:
        raise wrong(f"must be between 0 and {MAX_COUNT:,}, not {shown(value)}")
    return int(number)


def short_for(key: str, read: Callable[[object], object]) -> Callable[[object], object]:
    """A validator that takes `2` for `{key: 2}`; `read` checks what is not a mapping."""

    def expand(value: object) -> object:
        if value is None or isinstance(value, Mapping | BaseModel):
            return cast(object, value)
        return {key: read(value)}

    return expand


def _size(value: object) -> int | None:
    """Bytes; 0 and nothing mean that nothing is asked for."""
    if value is None or (isinstance(value, int | float) and value == 0) or value == "0":
        return None
    written = text(value)
    try:
        size = parse_memory(written)
    except (ValueError, OverflowError):
        raise wrong(f"{shown(value)} is not a memory size", "write for example `512MB`, `16GB` or `16GiB`") from None
    if written.strip()[-1].isdigit():
        raise wrong(f"`{written}` has no unit", f"write `{written.strip()}GB` or `{written.strip()}MB`")
    if size > MAX_MEMORY:
        raise wrong(f"`{written}` is more memory than any machine has")
    return size or None


def _flag(value: object) -> bool:
    word = text_of(value).lower() if isinstance(value, str | bool | int) or value is None else ""
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0") or value is None:
        return False
    raise wrong(f"expected true or false, not {shown(value)}")


def _seconds(value: object) -> float:
    """From a number of seconds, or text such as `90`, `2h`, `1h30m` or `1.5d`."""
    written = "" if isinstance(value, bool) or not isinstance(value, str | int | float) else text_of(value).strip()
    if re.fullmatch(r"\d{1,9}(?:\.\d+)?", written):
        found = float(written)
    elif len(written) < 40 and _DURATION.fullmatch(written):
        found = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(written))
    else:
        raise wrong(f"{shown(value)} is not a length of time", "write seconds, or for example `90s`, `30m`, `1h30m`")
    if found > MAX_SECONDS:
        raise wrong(f"`{written}` is longer than a year")
    return found


def _time_limit(value: object) -> float | None:
    """Seconds; 0 and nothing mean no limit."""
    return None if value is None else _seconds(value) or None


def spelled_as(pattern: str) -> WithJsonSchema:
    """What JSON Schema says of a text that matches `pattern`; numbers and truths are read as they are spelled."""
    kinds = ({"type": "string", "pattern": pattern}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"})
    return WithJsonSchema({"anyOf": list(kinds)}, mode="validation")


# `json_schema_input_type` says what the file may hold, for editors and the reference: what the validator accepts.
_INSIDE = r"(?![/~])(?!(.*/)?\.\.(/|$))"
_PRINTABLE = r"[^\x00-\x1f]*[^\x00-\x20][^\x00-\x1f]*"
_Truth = Literal[
    "true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "1",
    "false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "0",
]  # fmt: skip
_Memory = Annotated[str, Field(pattern=r"^\s*(0|\d+(\.\d+)?\s*([KMGTkmgt][Ii]?[Bb]?|[Bb]))\s*$")]
_Long = (
    Annotated[float, Field(ge=0, le=MAX_SECONDS)]
    | Annotated[str, Field(pattern=r"^\s*(\d{1,9}(\.\d+)?|(\d+(\.\d+)?(ms|[smhdw]))+)\s*$")]
)

YamlScalar = str | int | float | bool
"""What one YAML value may be."""
NotBlank = Annotated[str, Field(pattern=r"\S")] | int | float | bool
Text = Annotated[str, BeforeValidator(text, json_schema_input_type=NotBlank)]
"""Text that is not blank."""
Texts = Annotated[tuple[Text, ...], BeforeValidator(listed, json_schema_input_type=NotBlank | list[NotBlank] | None)]
"""One text or a list of them."""
RelativePath = Annotated[Text, AfterValidator(relative_path), spelled_as(f"^{_INSIDE}{_PRINTABLE}$")]
Folder = Annotated[Text, AfterValidator(_folder), spelled_as(rf"^(?!(\./*)+$){_INSIDE}{_PRINTABLE}$")]
"""The path of a folder within the working copy."""
Count = Annotated[
    int,
    BeforeValidator(
        count,
        json_schema_input_type=Annotated[int, Field(ge=0, le=MAX_COUNT)]
        | Annotated[str, Field(pattern=r"^(0{0,3}\d{1,5}|100000)$")],
    ),
]
"""A whole number from 0."""
Size = Annotated[int | None, BeforeValidator(_size, json_schema_input_type=_Memory | Literal[0] | None)]
"""Memory such as `16GB`, in bytes; None for 0."""
Flag = Annotated[bool, BeforeValidator(_flag, json_schema_input_type=bool | _Truth | Literal[0, 1] | None)]
Seconds = Annotated[float, BeforeValidator(_seconds, json_schema_input_type=_Long)]
"""A length of time, in seconds: a number of them, or text such as `1h30m`."""
TimeLimit = Annotated[float | None, BeforeValidator(_time_limit, json_schema_input_type=_Long | None)]
"""A length of time, in seconds; None for 0."""
