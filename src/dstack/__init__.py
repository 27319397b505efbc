"""dstack: the modern CI/CD made for training models.

Importing this package imports nothing else; the public names load on first use.
"""

from __future__ import annotations

__version__ = "0.1.0"

_PUBLIC = {
    "Provider": "dstack.sdk.provider",
    "JobSpec": "dstack.sdk.provider",
    "PlanContext": "dstack.sdk.provider",
    "log": "dstack.sdk.injob.dstack.metrics_log",
}

_MODULES = ("artifacts",)

__all__ = ["JobSpec", "PlanContext", "Provider", "__version__", "artifacts", "log"]

TYPE_CHECKING = False  # `typing` alone would double the time that `dstack --help` takes
if TYPE_CHECKING:
    from dstack import artifacts
    from dstack.sdk.injob.dstack.metrics_log import log
    from dstack.sdk.provider import JobSpec, PlanContext, Provider


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _MODULES:
        import importlib

        return importlib.import_module(f"dstack.{name}")
    raise AttributeError(f"module 'dstack' has no attribute {name!r}")
