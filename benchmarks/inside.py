"""Run by dstack's own Python: saves and restores as a program does that runs already, such as the agent.

Reads requests, a JSON object a line, from its input, and answers each with a line: {"save": FOLDER},
{"restore": FOLDER}, {"forget": true}. Seconds of wall and CPU time are those of the call alone.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from dstack.cli.session import open_api
from dstack.client.store import remote_store
from dstack.snapshots.capture import save
from dstack.snapshots.restore import restore
from dstack.snapshots.statcache import FileCache


def main() -> None:
    caches: dict[str, FileCache] = {}
    manifest_id = b""
    with open_api() as api:
        for line in sys.stdin:
            request: dict[str, Any] = json.loads(line)
            wall, cpu = time.perf_counter(), time.process_time()
            answer: dict[str, Any] = {}
            if "save" in request:
                folder = request["save"]
                saved = save(Path(folder), remote_store(api), cache=caches.setdefault(folder, FileCache()))
                manifest_id = saved.manifest_id
                answer = {"files": saved.files, "stored": saved.stored}
            elif "restore" in request:
                target = Path(request["restore"])
                answer = {"files": restore(remote_store(api), manifest_id, target).files}
            else:
                caches.clear()
                api.drop()
            answer |= {
                "wall": time.perf_counter() - wall,
                "cpu": time.process_time() - cpu,
                "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
