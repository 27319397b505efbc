"""A project that was never meant for dstack, from `dstack init` to its results."""

from __future__ import annotations

import shutil

from tests.integration.cli.conftest import Home

TRAIN = """\
\"\"\"Train something.\"\"\"
import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--output-dir", default="checkpoints")
options = parser.parse_args()
for epoch in range(options.epochs):
    print("epoch", epoch)
folder = pathlib.Path(options.output_dir)
folder.mkdir(exist_ok=True)
(folder / "model.txt").write_text(str(options.epochs))
"""


def test_from_a_script_to_a_versioned_result(home: Home) -> None:
    shutil.rmtree(home.repository / ".dstack")
    (home.repository / "train.py").write_text(TRAIN)
    done = home.run("init", "-y")
    assert "Next: dstack run train" in done.stderr
    assert home.run("validate").stdout == "1 workflow: no errors\n"
    done = home.run("run", "train", "--epochs", "3")
    assert done.stdout == "epoch 0\nepoch 1\nepoch 2\n"
    [run] = home.json("runs")
    [artifact] = home.json("artifacts", "list", run["name"])
    assert (artifact["path"], artifact["files"]) == ("checkpoints", 1)
    assert [
        check for check in home.json_of_doctor() if check["status"] == "problem" and check["name"] != "packages"
    ] == []
