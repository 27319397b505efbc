"""The same work written for every tool: one line printed, N steps side by side, N steps in a chain, N lines printed.

Each function returns the files of a folder, by name.
"""

from __future__ import annotations

HELLO = "hello from 42"
"""The line that is waited for. The commands compute the number, so that no tool's echo of them is taken for it."""

_SHELL = "echo hello from $((40 + 2))"
_CHILD = "        import subprocess, sys\n        subprocess.run([sys.executable, 'lines.py'], check=True)\n"
_PYTHON = "print('hello from', 40 + 2, flush=True)"

Files = dict[str, str]

WIDTH = 64
"""Bytes of a line of those that print many, its end included."""


def printer(lines: int) -> str:
    """A Python program that prints `lines` lines."""
    return f"line = 'x' * {WIDTH - 1}\nfor _ in range({lines}):\n    print(line)\n"


def dstack_hello() -> Files:
    return {".dstack/workflows.yaml": f"workflows:\n  - name: hello\n    provider: bash\n    commands: [{_SHELL}]\n"}


def dstack_fan(steps: int) -> Files:
    lines = ["workflows:"]
    for number in range(steps):
        lines += [f"  - name: s{number}", "    provider: bash", '    commands: ["true"]']
    lines += ["  - name: all", "    provider: bash", '    commands: ["true"]', "    depends-on:"]
    lines += [f"      - s{number}" for number in range(steps)]
    return {".dstack/workflows.yaml": "\n".join(lines) + "\n"}


def dstack_chain(steps: int) -> Files:
    lines = ["workflows:"]
    for number in range(1, steps + 1):
        lines += [f"  - name: s{number}", "    provider: bash", '    commands: ["true"]']
        lines += [f"    depends-on: [s{number - 1}]"] if number > 1 else []
    return {".dstack/workflows.yaml": "\n".join(lines) + "\n"}


def dstack_lines(lines: int, command: str) -> Files:
    workflow = f"workflows:\n  - name: lines\n    provider: bash\n    commands: [{command} lines.py]\n"
    return {".dstack/workflows.yaml": workflow, "lines.py": printer(lines)}


def dstack_language(workflows: int) -> Files:
    """Workflows as people write them: options, a dependency, expressions, resources, variables of their own."""
    lines, variables = ["workflows:"], ["variables:", "  global: {seed: 2}"]
    for number in range(workflows):
        lines += [
            f"  - name: s{number}",
            f"    help: The step number {number}",
            "    provider: python",
            "    script: train.py --lr ${{ lr }} --seed ${{ seed }}",
            "    requirements: [numpy]",
            "    artifacts: [checkpoint, logs]",
            "    environment: {MODE: fast, RUN: '${{ run.name }}'}",
            "    resources: {cpu: 1, memory: 1GB, gpu: '${{ gpu }}'}",
            "    retry: {on: [lost, oom], max: 2, backoff: 30s}",
            "    timeout: 2h",
        ]
        lines += [f"    depends-on: [s{number - 1}]"] if number % 10 else []
        variables += [f"  s{number}:", "    lr: {default: 0.1, type: float, min: 0}", "    gpu: 0"]
    return {
        ".dstack/workflows.yaml": "\n".join(lines) + "\n",
        ".dstack/variables.yaml": "\n".join(variables) + "\n",
        "train.py": "print(1)\n",
    }


def make_hello() -> Files:
    return {"Makefile": "hello:\n\t@" + _SHELL.replace("$", "$$") + "\n"}


def make_fan(steps: int, command: str) -> Files:
    names = " ".join(f"s{number}" for number in range(steps))
    # A shell per step, as every other tool starts one; make alone would start `true` directly.
    return {"Makefile": f".PHONY: all {names}\nall: {names}\n{names}:\n\t@{command};\n"}


def make_chain(steps: int, command: str) -> Files:
    rules = [f"s{number}: s{number - 1}\n\t@{command};\n" for number in range(2, steps + 1)]
    phony = " ".join(f"s{number}" for number in range(1, steps + 1))
    return {"Makefile": f".PHONY: all {phony}\nall: s{steps}\ns1:\n\t@{command};\n" + "".join(rules)}


def make_lines(lines: int, command: str) -> Files:
    return {"Makefile": f"all:\n\t@{command} lines.py\n", "lines.py": printer(lines)}


def dvc_hello() -> Files:
    return {"dvc.yaml": f"stages:\n  hello:\n    cmd: {_SHELL}\n"}


def dvc_fan(steps: int) -> Files:
    return {"dvc.yaml": "stages:\n" + "".join(f"  s{number}:\n    cmd: 'true'\n" for number in range(steps))}


def dvc_chain(steps: int) -> Files:
    lines = ["stages:"]
    for number in range(1, steps + 1):
        lines += [f"  s{number}:", f"    cmd: touch f{number}", f"    outs: [f{number}]"]
        lines += [f"    deps: [f{number - 1}]"] if number > 1 else []
    return {"dvc.yaml": "\n".join(lines) + "\n"}


def dvc_lines(lines: int) -> Files:
    return {"dvc.yaml": "stages:\n  lines:\n    cmd: python lines.py\n", "lines.py": printer(lines)}


def snakemake_hello() -> Files:
    return {"Snakefile": f"rule hello:\n    shell: '{_SHELL}'\n"}


def snakemake_fan(steps: int) -> Files:
    return {
        "Snakefile": f"rule all:\n    input: expand('done/{{n}}', n=range({steps}))\n"
        "rule step:\n    output: touch('done/{n}')\n    shell: 'true'\n"
    }


def snakemake_chain(steps: int) -> Files:
    return {
        "Snakefile": f"rule all:\n    input: 'done/{steps}'\n"
        "rule first:\n    output: touch('done/1')\n    shell: 'true'\n"
        "rule step:\n    input: lambda w: f'done/{int(w.n) - 1}'\n    output: touch('done/{n}')\n"
        "    wildcard_constraints: n=r'[2-9]|\\d\\d+'\n    shell: 'true'\n"
    }


def snakemake_lines(lines: int) -> Files:
    return {"Snakefile": "rule lines:\n    shell: 'python lines.py'\n", "lines.py": printer(lines)}


def metaflow_hello() -> Files:
    return {"flow.py": _metaflow(f"        {_PYTHON}\n        self.next(self.end)\n", "")}


def metaflow_fan(steps: int) -> Files:
    start = f"        self.each = list(range({steps}))\n        self.next(self.one, foreach='each')\n"
    middle = (
        "    @step\n    def one(self):\n        import subprocess\n        subprocess.run(['true'], check=True)\n"
        "        self.next(self.join)\n\n    @step\n    def join(self, inputs):\n        self.next(self.end)\n\n"
    )
    return {"flow.py": _metaflow(start, middle)}


def metaflow_chain(steps: int) -> Files:
    nexts = [*(f"s{number}" for number in range(2, steps + 1)), "end"]
    middle = "".join(
        f"    @step\n    def s{number}(self):\n        import subprocess\n"
        f"        subprocess.run(['true'], check=True)\n        self.next(self.{following})\n\n"
        for number, following in enumerate(nexts, 1)
    )
    return {"flow.py": _metaflow("        self.next(self.s1)\n", middle)}


def metaflow_lines(lines: int) -> Files:
    start = f"{_CHILD}        self.next(self.end)\n"
    return {"flow.py": _metaflow(start, ""), "lines.py": printer(lines)}


def _metaflow(start: str, middle: str) -> str:
    return (
        "from metaflow import FlowSpec, step\n\n\nclass Flow(FlowSpec):\n    @step\n    def start(self):\n"
        f"{start}\n{middle}    @step\n    def end(self):\n        pass\n\n\nif __name__ == '__main__':\n    Flow()\n"
    )


def prefect_hello() -> Files:
    return {"flow.py": _prefect(f"    {_PYTHON}", "    one.submit(0).result()")}


def prefect_fan(steps: int) -> Files:
    submit = f"    for future in [one.submit(number) for number in range({steps})]:\n        future.result()"
    return {"flow.py": _prefect("    subprocess.run(['true'], check=True)", submit)}


def prefect_chain(steps: int) -> Files:
    submit = f"    last = None\n    for number in range({steps}):\n        last = one.submit(last)\n    last.result()"
    return {"flow.py": _prefect("    subprocess.run(['true'], check=True)", submit)}


def prefect_lines(lines: int) -> Files:
    work = "    subprocess.run([sys.executable, 'lines.py'], check=True)"
    return {"flow.py": _prefect(work, "    one.submit(0).result()"), "lines.py": printer(lines)}


def _prefect(work: str, submit: str) -> str:
    return (
        "import subprocess\nimport sys\n\nfrom prefect import flow, task\n"
        "from prefect.task_runners import ThreadPoolTaskRunner\n\n\n"
        f"@task\ndef one(after):\n{work}\n\n\n"
        f"@flow(task_runner=ThreadPoolTaskRunner(max_workers=2))\ndef whole():\n{submit}\n\n\nwhole()\n"
    )
