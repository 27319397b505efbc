"""Print one line per epoch and leave in checkpoint/ what it was told and what it read."""

import json
import os
from pathlib import Path

numbers = [int(line) for line in Path("data/numbers.txt").read_text(encoding="utf-8").split()]
epochs, seed = int(os.environ["EPOCH"]), int(os.environ["SEED"])
for epoch in range(1, epochs + 1):
    print(f"epoch {epoch} of {epochs}")
    Path("checkpoint/state.json").write_text(
        json.dumps({"epoch": epoch, "seed": seed, "gpu": os.environ["GPU"], "sum": sum(numbers)}), encoding="utf-8"
    )
