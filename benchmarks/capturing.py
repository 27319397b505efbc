"""What it costs that a job's artifacts are saved while it writes them: CPU time of the agent and its children."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.measure import Case, CommandFailed, Row, Sample, cpu_seconds_with_children, run
from benchmarks.ours import Dstack, write

WRITES, EVERY, SIZE, CHANGED = 12, 5.0, 64 << 20, 4 << 20
CAPTURED, ALONE = "dstack", "dstack, nothing to save"

PROGRAM = f"""
import json, os, random, time
began = time.monotonic()
data = bytearray(random.Random(1).randbytes({SIZE}))
for turn in range({WRITES}):
    at = turn * 5_000_011 % ({SIZE - CHANGED})
    data[at : at + {CHANGED}] = random.Random(turn + 2).randbytes({CHANGED})
    with open("out/checkpoint.bin", "wb") as file:
        file.write(data)
    time.sleep(max(0, began + (turn + 1) * {EVERY} - time.monotonic()))
times = os.times()
print(json.dumps({{"cpu": times.user + times.system}}), flush=True)
"""


def capture_row(dstack: Dstack, scratch: Path) -> Row:
    cases = [_case(dstack, scratch, CAPTURED, "    artifacts: [out]\n"), _case(dstack, scratch, ALONE, "")]
    size, changed = f"{SIZE >> 20} MiB", f"{CHANGED >> 20} MiB"
    title = (
        f"a job writes {size} every {EVERY:.0f} s for {WRITES * EVERY:.0f} s, {changed} of it changed: CPU of the agent"
    )
    return Row("capture", title, cases, 3)


def _case(dstack: Dstack, scratch: Path, tool: str, more: str) -> Case:
    workflow = (
        "workflows:\n  - name: nothing\n    provider: bash\n    commands: ['true']\n"
        f"  - name: train\n    provider: bash\n    commands: [mkdir -p out, {dstack.python} train.py]\n"
    )
    cwd = write(scratch / f"capture-{bool(more)}", {".dstack/workflows.yaml": workflow + more, "train.py": PROGRAM})
    command = Case(tool, [dstack.program, "run", "train"], cwd, dstack.environment)

    def watched() -> Sample:
        dstack("run", "nothing", cwd=cwd)  # the agent runs
        pid = dstack.pid("runner")
        if pid is None:
            raise CommandFailed("the runner wrote no process id into its lock file")
        before = cpu_seconds_with_children(pid)
        found = run(command)
        name = str(dstack.newest_run(cwd)["name"])
        # The agent waits for what jobs leave behind, so the job's own time is among that of its children.
        own = json.loads(dstack("logs", name, cwd=cwd).strip().splitlines()[-1])["cpu"]
        used = cpu_seconds_with_children(pid) - before - own
        saved = json.loads(dstack("artifacts", "log", name, "--json", cwd=cwd)) if more else []
        if more and len(saved) < WRITES // 2:
            raise CommandFailed(f"only {len(saved)} snapshots were taken of {WRITES} writes")
        return Sample(found.wall, used)

    return Case(tool, [], cwd, dstack.environment, inside=watched, repeats=None if more else 1)
