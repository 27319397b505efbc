"""`scripts/soak`: writes, kills, collects, checks and restores at random, for as long as it is told to.

See docs/contributing/soak.md.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.faults.soak.player import Player


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Writes, kills and restores at random.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--folder", type=Path, help="Where the home is made; kept when something is wrong.")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dstack-soak-", dir=options.folder))
    player = Player(folder, options.seed, lambda line: print(line, flush=True))
    try:
        player.play(options.minutes * 60)
    except AssertionError as error:
        print(f"FAILED with seed {options.seed}: {error}\neverything is in {folder}", flush=True)
        return 1
    player.clear()
    return 0


if __name__ == "__main__":
    sys.exit(main())
