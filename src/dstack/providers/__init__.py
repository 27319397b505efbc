"""The built-in providers, one file each; a module is imported when its provider is first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from dstack.sdk.provider import Provider

_BUILT_IN = {
    "bash": ("dstack.providers.bash", "BashProvider"),
    "curl": ("dstack.providers.curl", "CurlProvider"),
    "python": ("dstack.providers.python", "PythonProvider"),
    "torchrun": ("dstack.providers.torchrun", "TorchrunProvider"),
    "docker": ("dstack.providers.pending", "DockerProvider"),
    "notebook": ("dstack.providers.pending", "NotebookProvider"),
    "lab": ("dstack.providers.pending", "LabProvider"),
    "code": ("dstack.providers.pending", "CodeProvider"),
    "streamlit": ("dstack.providers.pending", "StreamlitProvider"),
    "gradio": ("dstack.providers.pending", "GradioProvider"),
    "fastapi": ("dstack.providers.pending", "FastapiProvider"),
    "tensorboard": ("dstack.providers.pending", "TensorboardProvider"),
}


def registry() -> Mapping[str, type[Provider]]:
    """The built-in providers by the name that workflows give."""
    return _REGISTRY


class _Registry(Mapping[str, type[Provider]]):
    """Knows the names without importing anything."""

    def __init__(self) -> None:
        self._loaded: dict[str, type[Provider]] = {}

    def __getitem__(self, name: str) -> type[Provider]:
        if name not in self._loaded:
            module, attribute = _BUILT_IN[name]
            self._loaded[name] = getattr(import_module(module), attribute)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_BUILT_IN)

    def __len__(self) -> int:
        return len(_BUILT_IN)

    def __contains__(self, name: object) -> bool:
        return name in _BUILT_IN


_REGISTRY = _Registry()
