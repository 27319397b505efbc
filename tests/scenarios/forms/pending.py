"""Forms that cannot run yet, or not without what this system does not have: what is read, and what is said.

The list may only shrink: `test_pending.py` knows how long it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Pending:
    """`text` is one workflow without its name, `words` what stands after `dstack run` (default: its name).

    `reads` are keys of its configuration as they are read; empty where the file itself is refused, and where the
    provider's keys are not known.
    """

    says: str
    text: str = ""
    words: tuple[str, ...] = ("it",)
    reads: dict[str, Any] = field(default_factory=dict[str, Any])


DOCKER = """\
  hint: run the commands without a container: `provider: bash`, and `version` and `requirements` for Python
"""

PENDING: dict[str, Pending] = {
    "1.1-image-and-commands": Pending(
        text="""\
    image: ubuntu
    commands: ["echo hi"]
    artifacts: [output]
    resources: {cpu: 1, memory: 1GB, gpu: 1}
""",
        reads={"provider": "docker", "image": "ubuntu", "commands": ("echo hi",), "ports": ()},
        says="""\
.dstack/workflows.yaml:3:12: the provider `docker` cannot run yet
        image: ubuntu
               ^
"""
        + DOCKER,
    ),
    "1.1-provider-at-branch": Pending(
        text="    provider: python@main\n    script: train.py\n",
        says="""\
.dstack/workflows.yaml:3:15: providers of other branches cannot run yet: `python` at `main`
        provider: python@main
                  ^
  hint: write `provider: python`
""",
    ),
    "1.1-provider-of-another-repository": Pending(
        text="    provider: {repo: https://github.com/ada/tools, name: lightning}\n    file: train.py\n",
        says="""\
.dstack/workflows.yaml:3:15: providers of other repositories cannot run yet: `lightning` of https://github.com/ada/tools
        provider: {repo: https://github.com/ada/tools, name: lightning}
                  ^
""",
    ),
    "1.1-provider-owner-repo-ref-name": Pending(
        text="    provider: ada/tools@v1:lightning\n    file: train.py\n",
        says="""\
.dstack/workflows.yaml:3:15: providers of other repositories cannot run yet: `lightning` of ada/tools at `v1`
        provider: ada/tools@v1:lightning
                  ^
""",
    ),
    "1.1-artifacts-absolute": Pending(
        text="    provider: bash\n    commands: [make]\n    artifacts: [/opt/conda/envs/x]\n",
        says="""\
.dstack/workflows.yaml:5:17: `/opt/conda/envs/x` is an absolute path
        artifacts: [/opt/conda/envs/x]
                    ^
  hint: write it relative to the repository, such as `data`
""",
    ),
    "1.2-remote": Pending(
        text="    provider: bash\n    commands: [make]\n    resources: {remote: true}\n",
        reads={"commands": ("make",)},
        says="""\
.dstack/workflows.yaml:5:25: there are no machines of a cloud yet
        resources: {remote: true}
                            ^
  hint: remove `remote`: the job then runs on the runners of this server
""",
    ),
    "1.5-docker": Pending(
        text="""\
    provider: docker
    image: python:3.10
    commands: [python train.py]
    ports: 2
    environment: {A: b}
    artifacts: [/opt/conda/envs/x, out]
    before_run: [pip install x]
""",
        reads={
            "image": "python:3.10",
            "ports": (0, 0),
            "before_run": ("pip install x",),
            "artifacts": ({"path": "/opt/conda/envs/x", "mount": False}, {"path": "out", "mount": False}),
        },
        says="""\
.dstack/workflows.yaml:4:12: the provider `docker` cannot run yet
        image: python:3.10
               ^
"""
        + DOCKER,
    ),
    "1.5-docker-ports-list": Pending(
        text="    provider: docker\n    image: nginx\n    ports: [80, 443]\n",
        reads={"image": "nginx", "commands": (), "ports": (80, 443)},
        says="""\
.dstack/workflows.yaml:4:12: the provider `docker` cannot run yet
        image: nginx
               ^
"""
        + DOCKER,
    ),
    "1.5-docker-command-line": Pending(
        words=("docker", "ubuntu", "-c", "echo hi", "-p", "1"),
        says="command line: the provider `docker` cannot run yet\n    ubuntu\n" + DOCKER,
    ),
    "1.5-torchrun-nodes": Pending(
        text="    provider: torchrun\n    file: train.py\n    nodes: 2\n",
        reads={"file": "train.py", "nodes": 2},
        says="""\
.dstack/workflows.yaml:5:12: a job on several machines cannot run yet
        nodes: 2
               ^
  hint: run it on one machine: remove `nodes`, and ask for more GPUs of it in `resources`
""",
    ),
    "1.5-torchrun-nodes-command-line": Pending(
        words=("torchrun", "train.py", "--nnodes", "2"),
        says="""\
command line: a job on several machines cannot run yet
    --nnodes 2
  hint: run it on one machine: remove `nodes`, and ask for more GPUs of it in `resources`
""",
    ),
}


def _program(name: str, keys: str, hint: str, reads: dict[str, Any], *words: str) -> None:
    """A provider that opens a page, in a file and on the command line."""
    what = f"the provider `{name}` cannot run yet"
    line = f"    provider: {name}\n"
    PENDING[f"1.5-{name}"] = Pending(
        text=line + keys,
        reads=reads,
        says=f".dstack/workflows.yaml:3:15: {what}\n    {line}                  ^\n  hint: {hint}\n",
    )
    PENDING[f"1.5-{name}-command-line"] = Pending(
        words=(name, *words), says=f"command line: {what}\n    {name}\n  hint: {hint}\n"
    )


def _with_bash(packages: str, command: str) -> str:
    return f"use `provider: bash`, `requirements: [{packages}]`, `ports: 1`, `commands: [{command}]`"


_program(
    "notebook",
    "    version: 3.10\n",
    _with_bash("notebook", "jupyter notebook --port $JOB_PORT_0"),
    {"version": "3.10"},
)
_program("lab", "    python: 3.10\n", _with_bash("jupyterlab", "jupyter lab --port $JOB_PORT_0"), {"python": "3.10"})
_program(
    "code",
    "    version: 1.72.3\n",
    "edit the repository with your own editor: `dstack run` sends what is on disk",
    {"version": "1.72.3"},
)
_program(
    "streamlit",
    "    target: app.py\n    args: --x 1\n",
    _with_bash("streamlit", "streamlit run app.py --server.port $JOB_PORT_0"),
    {"target": "app.py", "args": ("--x", "1")},
    "app.py",
    "--x",
    "1",
)
_program(
    "gradio",
    "    file: app.py\n    args: [--x, 1]\n    requirements: [gradio==3.1]\n",
    _with_bash("gradio", "GRADIO_SERVER_PORT=$JOB_PORT_0 python app.py"),
    {"file": "app.py", "args": ("--x", "1"), "requirements": ("gradio==3.1",)},
    "app.py",
)
_program(
    "fastapi",
    "    app: main:app\n    uvicorn: --workers 2\n",
    _with_bash("fastapi, uvicorn", "uvicorn main:app --port $JOB_PORT_0"),
    {"app": "main:app", "uvicorn": ("--workers", "2")},
    "main:app",
)
_program(
    "tensorboard",
    "    runs: [goose-1, wolf-2]\n    logdir: lightning_logs\n",
    "fetch the artifacts with `dstack artifacts download RUN -o logs`, then `tensorboard --logdir logs`",
    {"runs": ("goose-1", "wolf-2"), "logdir": "lightning_logs"},
    "goose-1",
    "wolf-2",
    "--logdir",
    "lightning_logs",
)
