"""`dstack.log`: lines in the file that DSTACK_METRICS names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dstack


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    path = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("DSTACK_METRICS", str(path))
    return lambda: [json.loads(line) for line in path.read_text().splitlines()]


class Tensor:
    """As NumPy's scalars and torch's tensors of one element give their number."""

    def __init__(self, value: object) -> None:
        self.value = value

    def item(self) -> object:
        return self.value


def test_values_by_name_or_in_a_mapping(written: Any) -> None:
    dstack.log(step=1, loss=0.5)
    dstack.log({"val/loss": Tensor(0.25), "gpu": {"memory": 3}}, step=Tensor(2))
    first, second = written()
    assert (first["step"], first["loss"]) == (1, 0.5)
    assert (second["step"], second["val/loss"], second["gpu"]) == (2, 0.25, {"memory": 3})
    assert second["time"] >= first["time"] > 1_700_000_000


def test_what_is_no_number_is_told_by_name(written: Any) -> None:
    with pytest.raises(TypeError, match="val/note must be a number, not str"):
        dstack.log(val={"note": "good"})


def test_a_tensor_of_many_is_no_number(written: Any) -> None:
    class Many:
        def item(self) -> object:
            raise ValueError("only one element tensors can be converted")

    with pytest.raises(TypeError, match="loss must be a number, not Many"):
        dstack.log(loss=Many())


def test_outside_dstack_it_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSTACK_METRICS", raising=False)
    monkeypatch.chdir(tmp_path)
    dstack.log(loss=1)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_stops_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DSTACK_METRICS", str(tmp_path / "absent" / "metrics.jsonl"))
    dstack.log(loss=1)
    dstack.log(loss=2)
    assert capsys.readouterr().err.count("a metric is lost") <= 1
