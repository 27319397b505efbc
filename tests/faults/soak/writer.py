"""The job of the soak: changes files in `out` at random and writes down, before each change shows, what it will be.

    writer.py LEDGER SEED SECONDS

Each line of LEDGER/<run>.jsonl is {path, sha}: a state that the file `path` has from now on, or {final: {path: sha}}.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time

OUT = "out"
SIZES = (0, 1, 4096, 70_000, 300_000, 2_500_000)
POOL = 6
"""Contents that many runs write: what is stored once."""


class Writer:
    def __init__(self, ledger: str, seed: int) -> None:
        name = os.environ["RUN_NAME"]
        self._ledger = os.open(f"{ledger}/{name}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._random = random.Random(f"{seed} {os.environ.get('DSTACK_ATTEMPT', '')}")
        self.files: dict[str, bytes] = {}
        for parent, _, names in os.walk(OUT):
            for name in names:  # of an attempt before, or of the run that this one follows
                path = os.path.relpath(os.path.join(parent, name), OUT)
                with open(os.path.join(parent, name), "rb") as file:
                    self.files[path] = file.read()
                self.note(path)

    def note(self, path: str, content: bytes | None = None) -> None:
        content = self.files[path] if content is None else content
        self._write({"path": path, "sha": hashlib.sha256(content).hexdigest()})

    def final(self) -> None:
        self._write({"final": {path: hashlib.sha256(content).hexdigest() for path, content in self.files.items()}})

    def change(self) -> None:
        known = sorted(self.files)
        ways = (self.create, self.create, self.create, self.append, self.patch, self.rename, self.remove)
        self._random.choice(ways if known else (self.create,))(self._random.choice(known) if known else "")

    def create(self, _: str) -> None:
        folder = self._random.choice(["", "a/", "a/b/", f"step-{self._random.randrange(9)}/"])
        path = f"{folder}file-{self._random.randrange(40)}"
        source = random.Random(self._random.randrange(POOL)) if self._random.random() < 0.4 else self._random
        content = source.randbytes(self._random.choice(SIZES))
        self.note(path, content)
        with open("part", "wb") as file:
            file.write(content)
        os.makedirs(os.path.dirname(f"{OUT}/{path}"), exist_ok=True)
        os.rename("part", f"{OUT}/{path}")
        self.files[path] = content

    def append(self, path: str) -> None:
        more = self._random.randbytes(self._random.randrange(1, 5000))
        self.note(path, self.files[path] + more)
        fd = os.open(f"{OUT}/{path}", os.O_WRONLY | os.O_APPEND)
        os.write(fd, more)
        os.close(fd)
        self.files[path] += more

    def patch(self, path: str) -> None:
        content = self.files[path]
        if len(content) < 8192:
            return
        offset = self._random.randrange(len(content) // 4096) * 4096
        more = self._random.randbytes(2048)
        content = content[:offset] + more + content[offset + 2048 :]
        self.note(path, content)
        fd = os.open(f"{OUT}/{path}", os.O_WRONLY)
        os.pwrite(fd, more, offset)
        os.close(fd)
        self.files[path] = content

    def rename(self, path: str) -> None:
        target = f"moved-{self._random.randrange(20)}"
        self.note(target, self.files[path])
        os.rename(f"{OUT}/{path}", f"{OUT}/{target}")
        self.files[target] = self.files.pop(path)

    def remove(self, path: str) -> None:
        os.unlink(f"{OUT}/{path}")
        del self.files[path]

    def _write(self, row: object) -> None:
        os.write(self._ledger, json.dumps(row).encode() + b"\n")


def main() -> int:
    ledger, seed, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    writer = Writer(ledger, seed)
    pace = random.Random(seed)
    end = time.monotonic() + seconds
    print(f"writer {seed} begins with {len(writer.files)} files", flush=True)
    while time.monotonic() < end:
        writer.change()
        print(f"{len(writer.files)} files", flush=True)
        time.sleep(pace.choice([0, 0.01, 0.05, 0.3, 1.2]))
    writer.final()
    return pace.choice([0, 0, 0, 0, 3])


if __name__ == "__main__":
    sys.exit(main())
