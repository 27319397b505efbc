"""`dstack verify` with a real server: damage is found and named, and gone once the same was saved again."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

from tests.integration.cli.conftest import Home


def packs(home: Home) -> list[Path]:
    return sorted(path for path in (home.path / "server" / "store" / "packs").rglob("*") if path.is_file())


def flip(path: Path, marker: bytes) -> None:
    """Damage the stored bytes behind `marker`."""
    data = bytearray(path.read_bytes())
    at = data.index(marker) + len(marker)
    data[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def holding(home: Home, marker: bytes) -> Path:
    [path] = [path for path in packs(home) if marker in path.read_bytes()]
    return path


def found(home: Home, *words: str) -> list[Any]:
    return json.loads(home.run("verify", *words, "--json", check=None).stdout)


def test_from_damage_to_a_store_that_is_whole_again(home: Home, tmp_path: Path) -> None:
    data = home.repository / "data"
    data.mkdir()
    (home.repository / ".dstackignore").write_text("data/\n")  # else the code of each run has it, too
    (data / "model").write_text("weights: 0.25 0.5\n")
    (data / "kept").write_text("kept\n")
    name = home.run("artifacts", "upload", "data").stdout.strip()
    fine = home.run("run", "-d", "save").stdout.strip()
    home.run("logs", "-f", fine)
    for words in (["--all"], ["--all", "--quick"], [name], [fine]):
        done = home.run("verify", *words)
        assert done.stdout == "", done.stdout
        assert re.match(r"Nothing is damaged \(\d+ packs?", done.stderr), done.stderr

    pack = holding(home, b"weights: ")
    flip(pack, b"weights: ")
    home.run("artifacts", "cat", f"{name}:data/model", check=2)
    done = home.run("verify", "--all", check=1)
    assert f"in pack {pack.name}: its bytes do not have its BLAKE3" in done.stdout
    assert f"touched: {name}/upload:data, saved" in done.stdout
    assert "\n    model\n" in done.stdout
    assert "kept" not in done.stdout
    assert fine not in done.stdout
    assert "dstack verify --all --repair" in done.stderr
    assert home.run("verify", fine).stdout == ""
    assert {item["t"] for item in found(home, name)} == {"damage", "touched", "end"}
    assert pack.exists(), "without --repair nothing is changed"

    (data / "model").rename(tmp_path / "model")  # saved again without it, it is not healed
    done = home.run("verify", "--all", "--repair", check=1)
    assert f"pack {pack.name}: moved to quarantine/{pack.name}" in done.stdout
    assert not pack.exists()
    [aside] = [part for part in json.loads(home.run("du", "--json").stdout) if part["kind"] == "quarantine"]
    assert aside["size"] == (home.path / "server" / "store" / "quarantine" / pack.name).stat().st_size
    home.run("artifacts", "upload", "data")
    assert name in home.run("verify", "--all", check=1).stdout
    (tmp_path / "model").rename(data / "model")
    home.run("artifacts", "upload", "data")
    assert "Nothing is damaged" in home.run("verify", "--all").stderr
    assert home.run("artifacts", "cat", f"{name}:data/model").stdout == "weights: 0.25 0.5\n"


def test_a_lost_catalog_comes_back(home: Home) -> None:
    name = home.run("run", "-d", "save").stdout.strip()
    home.run("logs", "-f", name)
    home.run("server", "stop")
    with sqlite3.connect(home.path / "server" / "dstack.db") as database:
        database.execute("DELETE FROM chunks")
        database.execute("DELETE FROM packs")
    database.close()
    home.run("artifacts", "cat", f"{name}:out/answer", check=2)
    assert name in home.run("verify", "--all", check=1).stdout
    done = home.run("verify", "--rebuild-index")
    assert "The catalog is made again: " in done.stderr
    assert "Nothing is damaged" in home.run("verify", "--all").stderr
    assert home.run("artifacts", "cat", f"{name}:out/answer").stdout == "42\n"
    assert "there was nothing to change" in home.run("verify", "--rebuild-index").stderr


def test_what_is_asked_wrongly(home: Home) -> None:
    for words in ([], ["some-run", "--all"], ["--all", "--rebuild-index"], ["--rebuild-index", "--quick"]):
        assert "hint" in home.run("verify", *words, check=2).stderr
    assert "there is no run `nobody-1`" in home.run("verify", "nobody-1", check=2).stderr
    assert "nothing was ever submitted from the repository" in home.run("verify", ":none", check=2).stderr
