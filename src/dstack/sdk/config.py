"""The keys that every workflow may have, and the types that keys of providers are made of.

A provider's `Config` derives from `WorkflowConfig` and adds its own keys. Values arrive as YAML types them, with
numbers that remember their spelling (`dstack.sdk.scalars`); the types here read text where a key wants text, so that
`version: 3.10` is "3.10" and `commands: [true]` runs `true`. Raise `wrong(...)` in validators of your own.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from dstack.domain.resources import Gpu, Requirements, parse_memory
from dstack.sdk.scalars import shown, text_of

MAX_MEMORY = 2**60
MAX_COUNT = 100_000
MAX_ITEMS = 25_000

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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


def _text(value: object) -> str:
    text = value if type(value) is str else _spelled(value)
    if not text.strip():
        raise wrong("must not be empty")
    if "\0" in text:
        raise wrong("must not hold a zero byte")
    return text


def _spelled(value: object) -> str:
    if isinstance(value, str | bool | int | float):
        return text_of(value)
    raise wrong(f"expected text, not {shown(value)}")


def relative_path(text: str) -> str:
    """A path within the working copy, normalised: no `./`, no trailing `/`. Raises what `wrong` makes."""
    if text.startswith(("/", "~")):
        raise wrong(f"`{text}` is an absolute path", "write it relative to the repository, such as `data`")
    if ".." in text.split("/"):
        raise wrong(f"`{text}` leads out of the repository", "`..` is not allowed here")
    if any(ord(char) < 32 for char in text):
        raise wrong("a path must not hold control characters")
    return posixpath.normpath(text)


def _folder(text: str) -> str:
    path = relative_path(text)
    if path == ".":
        raise wrong(f"`{text}` is the whole working copy", "name the folder that holds the output")
    return path


def _once(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _environment(value: object) -> dict[str, str]:
    """From a map, or from a list of `K=V` and `K` (empty)."""
    found: dict[str, str] = {}
    errors: list[PydanticCustomError] = []
    for at, name, content in _pairs(value):
        place: Literal["key", "value"] = "key" if isinstance(at, str) else "value"
        if _ENV_NAME.fullmatch(name) is None:
            hint = "letters, digits and `_`, and a letter first"
            errors.append(wrong(f"`{name[:60]}` cannot name an environment variable", hint, (at,), place))
        elif not isinstance(content, str | bool | int | float | None):
            errors.append(wrong(f"the value of `{name}` must be text, not {shown(content)}", at=(at,)))
        elif "\0" in (text := text_of(content)):
            errors.append(wrong(f"the value of `{name}` must not hold a zero byte", at=(at,)))
        else:
            found[name] = text
    if errors:
        raise together(errors)
    return found


def _pairs(value: object) -> Iterator[tuple[str | int, str, object]]:
    """(key or index, name, value) of each variable."""
    if isinstance(value, Mapping):
        for name, content in cast("Mapping[object, object]", value).items():
            yield str(name), str(name), content
    elif isinstance(value, list | tuple):
        for index, item in enumerate(cast("Sequence[object]", value)):
            name, _, text = (text_of(item) if isinstance(item, str | bool | int | float) else "").partition("=")
            yield index, name, text
    elif value is not None:
        raise wrong(f"expected `NAME: value` lines or a list of `NAME=value`, not {shown(value)}")


def _count(value: object) -> int:
    number: object = value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool):
        raise wrong(f"expected a whole number, not {shown(value)}")
    if not 0 <= number <= MAX_COUNT:
        raise wrong(f"must be between 0 and {MAX_COUNT:,}, not {shown(value)}")
    return int(number)


def _size(value: object) -> int | None:
    """Bytes; 0 and nothing mean that nothing is asked for."""
    if value is None or (isinstance(value, int | float) and value == 0) or value == "0":
        return None
    text = _text(value)
    try:
        size = parse_memory(text)
    except (ValueError, OverflowError):
        raise wrong(f"{shown(value)} is not a memory size", "write for example `512MB`, `16GB` or `16GiB`") from None
    if text.strip()[-1].isdigit():
        raise wrong(f"`{text}` has no unit", f"write `{text.strip()}GB` or `{text.strip()}MB`")
    if size > MAX_MEMORY:
        raise wrong(f"`{text}` is more memory than any machine has")
    return size or None


def _flag(value: object) -> bool:
    text = text_of(value).lower() if isinstance(value, str | bool | int) or value is None else ""
    if text in ("true", "yes", "on", "1"):
        return True
    if text in ("false", "no", "off", "0") or value is None:
        return False
    raise wrong(f"expected true or false, not {shown(value)}")


def _counted(value: object) -> object:
    """`2` is short for `{count: 2}`."""
    if value is None or isinstance(value, Mapping | BaseModel):
        return cast(object, value)
    return {"count": _count(value)}


def _dependency(item: object) -> str:
    """From text, `{workflow: NAME}` and `{tag: NAME}` to `NAME` and `:NAME`."""
    if not isinstance(item, Mapping):
        return _text(item)
    entry = cast("Mapping[str, object]", item)
    hint = "write `workflow: NAME` or `tag: NAME`"
    unknown = [wrong(f"unknown key `{key}`", hint, (key,), "key") for key in entry if key not in ("workflow", "tag")]
    if unknown:
        raise together(unknown)
    if len(entry) != 1:
        raise wrong("names one workflow or one tag", hint)
    ((key, name),) = entry.items()
    return f"{':' if key == 'tag' else ''}{_text(name)}"


Text = Annotated[str, BeforeValidator(_text)]
"""Text that is not blank."""
Texts = Annotated[tuple[Text, ...], BeforeValidator(listed)]
"""One text or a list of them."""
RelativePath = Annotated[Text, AfterValidator(relative_path)]
Folders = Annotated[
    tuple[Annotated[Text, AfterValidator(_folder)], ...], BeforeValidator(listed), AfterValidator(_once)
]
"""Paths of folders within the working copy."""
Environment = Annotated[dict[str, str], BeforeValidator(_environment)]
"""Environment variables, as a map or as a list of `NAME=value`."""
Dependencies = Annotated[tuple[Annotated[str, BeforeValidator(_dependency)], ...], BeforeValidator(listed)]
Count = Annotated[int, BeforeValidator(_count)]
"""A whole number from 0."""
Size = Annotated[int | None, BeforeValidator(_size)]
"""Memory such as `16GB`, in bytes; None for 0."""
Flag = Annotated[bool, BeforeValidator(_flag)]


class GpuConfig(BaseModel):
    """GPUs: how many, which, and with how much memory each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: Count = 1
    name: Text | None = None
    memory: Size = None


class CpuConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    count: Count = 1


class Resources(BaseModel):
    """What one job asks of a machine. A zero, as a variable may bring it, asks for nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: Annotated[CpuConfig | None, BeforeValidator(_counted)] = None
    memory: Size = None
    gpu: Annotated[GpuConfig | None, BeforeValidator(_counted)] = None
    shm_size: Size = None
    interruptible: Flag = False

    @model_validator(mode="before")
    @classmethod
    def _named_gpu(cls, data: object) -> object:
        """`V100/gpu: 2` is short for `gpu: {name: V100, count: 2}`."""
        if not isinstance(data, Mapping):
            return data
        entries = cast("Mapping[str, object]", data)
        named = [key for key in entries if key.endswith("/gpu") and len(key) > 4]
        if not named:
            return entries
        if len(named) > 1 or "gpu" in entries:
            raise wrong("one job has one kind of GPU", "keep one of the keys", (named[-1],), "key")
        try:
            count = _count(entries[named[0]])
        except PydanticCustomError as error:
            raise wrong(error.message(), at=(named[0],)) from None
        others = {key: value for key, value in entries.items() if key != named[0]}
        return {**others, "gpu": {"name": named[0][:-4], "count": count}}

    def requirements(self) -> Requirements:
        """The same for the placer."""
        cpu = self.cpu.count if self.cpu is not None else 0
        gpu = Gpu()
        if self.gpu is not None and self.gpu.count:
            gpu = Gpu(self.gpu.count, self.gpu.name, self.gpu.memory)
        return Requirements(cpu or 1, self.memory, gpu, self.shm_size, self.interruptible)


class WorkflowConfig(BaseModel):
    """The keys that every workflow may have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text
    provider: Text
    help: Text | None = None
    depends_on: Texts = Field(default=(), alias="depends-on")
    deps: Dependencies = ()
    artifacts: Folders = ()
    resources: Resources | None = None
    environment: Environment = Field(default_factory=dict[str, str])
    env: Environment = Field(default_factory=dict[str, str])
    working_dir: RelativePath = "."

    @model_validator(mode="after")
    def _one_environment(self) -> WorkflowConfig:
        if self.env and self.environment:
            raise wrong("`env` and `environment` are the same key", "keep one of them", ("env",), "key")
        return self

    def job(self) -> dict[str, Any]:
        """The fields of `JobSpec` that these keys decide."""
        fields: dict[str, Any] = {
            "environment": self.environment or self.env,
            "working_dir": self.working_dir,
            "artifacts": self.artifacts,
        }
        if self.resources is not None:
            fields["requirements"] = self.resources.requirements()
        return fields
