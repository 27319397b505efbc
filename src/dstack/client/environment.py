"""What of the submitting shell goes with a run: a declared list of variables, and its Python.

Nothing else does, so a run says the same thing wherever it is submitted from, and no credential that happens to be in
a shell goes along unasked. What of the list may hold one, such as the address of a private package index, is stored by
the server sealed only. What a job needs beyond this is declared in its workflow.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from dstack.client.sent import PythonRef

ALLOWED = (
    # Where programs and their data are
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "CONDA_DEFAULT_ENV",
    "CONDA_SHLVL",
    "CONDA_EXE",
    "CONDA_PYTHON_EXE",
    "MAMBA_EXE",
    "MAMBA_ROOT_PREFIX",
    "PYENV_VERSION",
    "PYENV_ROOT",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    # How text and time look
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    # How the network is reached
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    # Where packages come from
    "PIP_*",
    "UV_*",
    # Accelerators, and where downloaded models are kept
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_XET_CACHE",
    "HF_ASSETS_CACHE",
    "HF_DATASETS_CACHE",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_ENABLE_HF_TRANSFER",
    "HF_HUB_DISABLE_TELEMETRY",
    "TRANSFORMERS_CACHE",
    "TRANSFORMERS_OFFLINE",
    "SENTENCE_TRANSFORMERS_HOME",
    "TORCH_HOME",
    "TORCH_EXTENSIONS_DIR",
    "TRITON_CACHE_DIR",
    "KERAS_HOME",
    "TFHUB_CACHE_DIR",
    "TFDS_DATA_DIR",
    "SCIKIT_LEARN_DATA",
    "NLTK_DATA",
    "TIKTOKEN_CACHE_DIR",
    "NUMBA_CACHE_DIR",
)
"""Names, or prefixes that end in `*`."""

NEVER = ("UV_PUBLISH_*",)
"""What the prefixes would let through and no job needs: credentials for publishing."""

_EXACT = frozenset(name for name in ALLOWED if not name.endswith("*"))
_PREFIXES = tuple(name[:-1] for name in ALLOWED if name.endswith("*"))
_NEVER = tuple(name.rstrip("*") for name in NEVER)


def allowed_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The part of `environ` that is on the list, without values that are not text."""
    return {
        name: value
        for name, value in environ.items()
        if (name in _EXACT or name.startswith(_PREFIXES)) and not name.startswith(_NEVER) and _is_text(value)
    }


def find_python(cache: str, *, folder: str, environ: Mapping[str, str] = os.environ) -> PythonRef | None:
    """The first `python3` of the shell (VIRTUAL_ENV wins), as {path, version}; None where there is none.

    `cache` is a file that remembers versions by path, size and time of change, so that an interpreter is started once
    in its life. `folder` is where it is started: version switchers choose by folder.
    """
    found = _first_python(environ)
    if found is None:
        return None
    version = _configured_version(found)
    if version is not None:
        return {"path": found, "version": version}
    key = _identity(found, folder, environ)
    known = _read_cache(cache)
    if key in known:
        return known[key]
    answer = _ask(found, folder)
    if answer is not None:
        _write_cache(cache, {**known, key: answer})
    return answer


def _first_python(environ: Mapping[str, str]) -> str | None:
    folders = [folder for folder in environ.get("PATH", os.defpath).split(os.pathsep) if folder]
    if environ.get("VIRTUAL_ENV"):
        folders.insert(0, f"{environ['VIRTUAL_ENV']}/bin")
    for folder in folders:
        path = f"{os.path.abspath(folder)}/python3"
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def _configured_version(path: str) -> str | None:
    """The version that a virtual environment's `pyvenv.cfg` states, or this interpreter's own."""
    if path == sys.executable:
        return ".".join(map(str, sys.version_info[:3]))
    try:
        with open(f"{os.path.dirname(os.path.dirname(path))}/pyvenv.cfg", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:
        name, _, value = line.partition("=")
        # venv writes `version`, virtualenv and uv write `version_info`, which may end in `.final.0`.
        parts = value.strip().split(".")[:3]
        if name.strip() in ("version", "version_info") and len(parts) == 3 and all(part.isdigit() for part in parts):
            return ".".join(parts)
    return None


def _identity(path: str, folder: str, environ: Mapping[str, str]) -> str:
    status = os.stat(path)
    parts = [os.path.realpath(path), path, str(status.st_size), str(status.st_mtime_ns)]
    with open(path, "rb") as file:
        is_script = file.read(2) == b"#!"
    if is_script:
        # A version switcher's shim: what it runs depends on the folder and on its own settings.
        parts += [folder, environ.get("PYENV_VERSION", ""), _switch(folder), _switch(environ.get("PYENV_ROOT", ""))]
    return "\0".join(parts)


def _switch(folder: str) -> str:
    """The choice in force in `folder`: the text of the next `.python-version` upwards, or pyenv's global one."""
    folder = folder or os.path.expanduser("~/.pyenv")
    for name in (f"{folder}/version", *(f"{parent}/.python-version" for parent in _upwards(folder))):
        try:
            with open(name, encoding="utf-8", errors="replace") as file:
                return file.read(200)
        except OSError:
            continue
    return ""


def _upwards(folder: str) -> list[str]:
    folders = [folder]
    while (parent := os.path.dirname(folders[-1])) != folders[-1]:
        folders.append(parent)
    return folders


def _ask(path: str, folder: str) -> PythonRef | None:
    import subprocess

    code = "import sys; print(sys.executable); print('%d.%d.%d' % sys.version_info[:3])"
    try:
        done = subprocess.run(
            [path, "-I", "-c", code], cwd=folder, capture_output=True, text=True, timeout=20, check=True
        )
        executable, version = done.stdout.splitlines()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None  # a broken interpreter is as good as none; a job that needs one says so
    return {"path": executable, "version": version}


def _read_cache(path: str) -> dict[str, PythonRef]:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def _write_cache(path: str, content: dict[str, PythonRef]) -> None:
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(f"{path}.{os.getpid()}", "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(file.name, path)
    except OSError:
        pass  # only a cache: the next run asks again


def _is_text(value: str) -> bool:
    """Whether `value` came from valid UTF-8; other bytes could not be sent as JSON."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
