"""dstack: the modern CI/CD made for training models.

Importing this package imports nothing else; the public names load on first use.
"""

from __future__ import annotations

__version__ = "0.1.0"

_PUBLIC = {
    "Provider": "dstack.sdk.provider",
    "JobSpec": "dstack.sdk.provider",
    "PlanContext": "dstack.sdk.provider",
}

__all__ = ["__version__", *_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dstack' has no attribute {name!r}")
