"""The keys that every workflow may have, and the types that keys of providers are made of.

A provider's `Config` derives from `WorkflowConfig` and adds its own keys. Values arrive as YAML types them, with
numbers that remember their spelling (`dstack.sdk.scalars`); the types here read text where a key wants text, so that
`version: 3.10` is "3.10" and `commands: [true]` runs `true`. Raise `wrong(...)` in validators of your own.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from dstack.domain.resources import Gpu, Requirements, parse_memory
from dstack.sdk.scalars import shown, text_of

MAX_MEMORY = 2**60
MAX_COUNT = 100_000

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def wrong(message: str, hint: str = "", at: tuple[str | int, ...] = ()) -> PydanticCustomError:
    """The error for a validator to raise: `at` is the path, from the value being validated, of what is wrong."""
    # A message is a template to pydantic: what people typed must not be read as fields of it.
    return PydanticCustomError("dstack", "{message}", {"message": message, "hint": hint, "at": at})


def _text(value: object) -> str:
    if type(value) is str:
        return value
    if isinstance(value, str | bool | int | float):
        return text_of(value)
    raise wrong(f"expected text, not {shown(value)}")


def _nonempty(value: object) -> str:
    text = _text(value)
    if not text.strip():
        raise wrong("must not be empty")
    if "\0" in text:
        raise wrong("must not hold a zero byte")
    return text


def texts(value: object) -> list[str]:
    """The items of a list of texts, or the one text there is; raises what `wrong` makes."""
    if value is None:
        return []
    if isinstance(value, list | tuple):
        texts: list[str] = []
        for index, item in enumerate(cast("list[object]", value)):
            if type(item) is not str or not item.strip() or "\0" in item:
                item = _element(item, index)
            texts.append(item)
        return texts
    return [_nonempty(value)]


def _element(item: object, index: int) -> str:
    try:
        return _nonempty(item)
    except PydanticCustomError as error:
        raise wrong(error.message(), at=(index,)) from None


def _relative(text: str, at: tuple[int, ...] = ()) -> str:
    """A path within the working copy, normalised: no `./`, no trailing `/`."""
    if text.startswith(("/", "~")):
        raise wrong(f"`{text}` is an absolute path", "write it relative to the repository, such as `data`", at)
    if ".." in text.split("/"):
        raise wrong(f"`{text}` leads out of the repository", "`..` is not allowed here", at)
    if any(ord(char) < 32 for char in text):
        raise wrong("a path must not hold control characters", at=at)
    return posixpath.normpath(text)


def _folders(value: object) -> list[str]:
    folders: dict[str, None] = {}
    for index, text in enumerate(texts(value)):
        at = (index,) if isinstance(value, list | tuple) else ()
        if (path := _relative(text, at)) == ".":
            raise wrong(f"`{text}` is the whole working copy", "name the folder that holds the output", at)
        folders[path] = None
    return list(folders)


def _environment(value: object) -> dict[str, str]:
    """From a map, or from a list of `K=V` and `K` (empty)."""
    found: dict[str, str] = {}
    if isinstance(value, Mapping):
        for name, text in cast("Mapping[object, object]", value).items():
            _check_env(str(name), "", (str(name),))
            try:
                found[str(name)] = "" if text is None else _text(text)
            except PydanticCustomError as error:
                raise wrong(error.message(), at=(str(name),)) from None
            _check_env(str(name), found[str(name)], (str(name),))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(texts(cast("Sequence[object]", value))):
            name, _, text = item.partition("=")
            _check_env(name, text, (index,))
            found[name] = text
    elif value is not None:
        raise wrong(f"expected `NAME: value` lines or a list of `NAME=value`, not {shown(value)}")
    return found


def _check_env(name: str, text: str, at: tuple[str | int, ...]) -> None:
    if _ENV_NAME.fullmatch(name) is None:
        hint = "letters, digits and `_`, and a letter first"
        raise wrong(f"`{name}` cannot name an environment variable", hint, at)
    if "\0" in text:
        raise wrong(f"the value of `{name}` must not hold a zero byte", at=at)


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
    text = _nonempty(value)
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


def _working_dir(value: object) -> str:
    return "." if value is None else _relative(_nonempty(value))


def _dependencies(value: object) -> list[str]:
    """From strings, `{workflow: NAME}` and `{tag: NAME}` to `NAME` and `:NAME`."""
    items = cast("list[object]", value if isinstance(value, list | tuple) else [] if value is None else [value])
    return [_dependency(item, index) for index, item in enumerate(items)]


def _dependency(item: object, index: int) -> str:
    if not isinstance(item, Mapping):
        return _element(item, index)
    entry = cast("Mapping[str, object]", item)
    for key in entry:
        if key not in ("workflow", "tag"):
            raise wrong(f"unknown key `{key}`", "write `workflow: NAME` or `tag: NAME`", (index, key))
    if len(entry) != 1:
        raise wrong("expected either `workflow: NAME` or `tag: NAME`", at=(index,))
    ((key, name),) = entry.items()
    try:
        return f"{':' if key == 'tag' else ''}{_nonempty(name)}"
    except PydanticCustomError as error:
        raise wrong(error.message(), at=(index, key)) from None


Text = Annotated[str, BeforeValidator(_nonempty)]
"""Text that is not blank."""
Texts = Annotated[tuple[str, ...], BeforeValidator(texts)]
"""One text or a list of them."""
Folders = Annotated[tuple[str, ...], BeforeValidator(_folders)]
"""Paths of folders within the working copy."""
Environment = Annotated[dict[str, str], BeforeValidator(_environment)]
"""Environment variables, as a map or as a list of `NAME=value`."""
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
            raise wrong("one job has one kind of GPU", "keep one of the keys", (named[-1],))
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
    help: str | None = None
    depends_on: Texts = Field(default=(), alias="depends-on")
    deps: Annotated[tuple[str, ...], BeforeValidator(_dependencies)] = ()
    artifacts: Folders = ()
    resources: Resources | None = None
    environment: Environment = Field(default_factory=dict[str, str])
    env: Environment = Field(default_factory=dict[str, str])
    working_dir: Annotated[str, BeforeValidator(_working_dir)] = "."

    @model_validator(mode="after")
    def _one_environment(self) -> WorkflowConfig:
        if self.env and self.environment:
            raise wrong("`env` and `environment` are the same key", "keep one of them", ("env",))
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
