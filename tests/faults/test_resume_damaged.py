"""The last snapshot of a training is damaged below its root: a set-up comes upon it, and a repair makes it known."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

from blake3 import blake3

from dstack.embedded.store_place import store_folder
from dstack.snapshots.blobs.local import LocalBlobStore
from dstack.snapshots.interfaces import pack_key
from tests.faults.home import Home

TRAIN = """
workflows:
  - name: train
    provider: bash
    commands:
      - if [ -e state/model ]; then echo "goes on with $(head -c 5 state/model)"; exit 0; fi
      - seq -f "first %g" 2000 > state/model
      - until [ -e "ROOT/second" ]; do sleep 0.1; done
      - seq -f "second %g" 2000 > state/model
      - until [ -e "ROOT/killed" ]; do sleep 0.1; done
      - kill -9 $$
    artifacts: [state]
"""


def model(word: str) -> bytes:
    return "".join(f"{word} {number}\n" for number in range(1, 2001)).encode()


def saved(home: Home, name: str) -> list[str]:
    """The snapshots that hold a file, newest first, each once."""
    with home.api() as api:
        found = [item.get("manifest_id", "") for item in api.artifact_history(run=name) if item.get("files")]
    return list(dict.fromkeys(found))


def damage(home: Home, content: bytes) -> None:
    """Flip a bit of what the store has of a file."""
    with closing(sqlite3.connect(home.folder / "server" / "dstack.db")) as connection:
        query = "SELECT pack_id, offset, stored_length FROM chunks WHERE chunk_id = ?"
        [(pack_id, offset, length)] = connection.execute(query, [blake3(content).digest()]).fetchall()
    blobs = LocalBlobStore(store_folder(home.folder))
    data = bytearray(blobs.get(pack_key(pack_id)))
    data[offset + length // 2] ^= 4
    blobs.delete([pack_key(pack_id)])
    blobs.put(pack_key(pack_id), bytes(data))


def test_what_is_damaged_further_down_is_named_and_the_one_before_it_offered(home: Home) -> None:
    home.environment["DSTACK_RUNNER_MAX_INTERVAL"] = "0.3"
    home.write(TRAIN.replace("ROOT", str(home.root)))
    name = home.detached("train")
    home.wait(lambda: saved(home, name), "a snapshot of it was taken")
    (home.root / "second").touch()
    home.wait(lambda: len(saved(home, name)) > 1, "another snapshot of it was taken")
    (home.root / "killed").touch()
    home.wait_status(name, "failed")
    last, first = saved(home, name)
    damage(home, model("second"))

    home.types("resume", name, code=None)

    failed = home.runs()[0]["name"]
    told = " ".join(home.types("explain", failed).stdout.split())
    assert f"snapshot {last[:12]} of state (run {name}) cannot be put back: " in told
    [offered] = set(re.findall(r"`dstack (resume \S+ --at \S+)` begins with the one before it", told))
    assert offered == f"resume {name} --at {first[:12]}"
    assert f"`dstack resume {failed} --fresh` begins without any" in told
    assert "goes on with first\n" in home.types(*offered.split()).stdout

    home.types("verify", "--all", "--repair", code=None)
    done = home.types("resume", name)
    assert f"what train of {name} saved last in `state` is not whole in the store any more: it begins" in done.stderr
    assert "goes on with first\n" in done.stdout
