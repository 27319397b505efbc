from __future__ import annotations

import subprocess
import sys

import pytest

from dstack.providers import registry
from dstack.sdk.provider import Provider


def test_every_name_loads_its_provider() -> None:
    providers = registry()

    assert list(providers)[:4] == ["bash", "curl", "python", "torchrun"]
    assert len(providers) == 12
    for name, provider in providers.items():
        assert issubclass(provider, Provider)
        assert provider.name == name


def test_an_unknown_name_is_a_key_error() -> None:
    assert "dockr" not in registry()
    with pytest.raises(KeyError):
        registry()["dockr"]


def test_names_are_known_without_importing_providers_or_pydantic() -> None:
    script = (
        "import sys, dstack.workflows; from dstack.providers import registry; assert 'bash' in registry();"
        "print([name for name in ('pydantic', 'dstack.providers.bash') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_provider_must_plan() -> None:
    class Lazy(Provider):
        pass

    with pytest.raises(TypeError, match="plan"):
        Lazy()  # pyright: ignore[reportAbstractUsage]
