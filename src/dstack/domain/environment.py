"""Settings from environment variables, one per field of a dataclass: `PREFIX_FIELD`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_BOOLS = {"1": True, "true": True, "0": False, "false": False}


def read_settings(settings: T, prefix: str, environ: Mapping[str, str]) -> T:
    """`settings` with what the environment says; raises ValueError naming the variable that cannot be read."""
    instance: Any = settings
    changed: dict[str, object] = {}
    for field in fields(instance):
        name = f"{prefix}_{field.name.upper()}"
        if name in environ:
            changed[field.name] = _read(name, environ[name], getattr(instance, field.name))
    return replace(instance, **changed)


def _read(name: str, text: str, default: object) -> object:
    try:
        if isinstance(default, bool):
            return _BOOLS[text.lower()]
        if isinstance(default, (int, float, Path)):
            return type(default)(text)
    except (KeyError, ValueError):
        raise ValueError(f"{name}=`{text}` cannot be read as {type(default).__name__}") from None
    return text
