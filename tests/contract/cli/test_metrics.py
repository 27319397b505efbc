"""`dstack metrics` and `dstack compare`: what they ask for, and what they show."""

from __future__ import annotations

import json
from typing import Any

from tests.contract.cli.conftest import Dstack, a_run
from tests.support.stub_api import Reply, StubApi


def a_metric(name: str = "loss", **other: Any) -> dict[str, Any]:
    return {
        "job": "train", "attempt": 1, "name": name, "count": 3, "min": 0.25, "max": 1.0, "last": 0.25, "last_step": 3,
        "last_at": 10**15, "points": [[1, 1, 1.0], [2, 2, 0.5], [3, 3, 0.25]], **other,
    }  # fmt: skip


def serve(stub: StubApi, *metrics: dict[str, Any]) -> None:
    stub.on("GET …/runs/odd-cat-1/metrics", Reply(body={"items": list(metrics)}))


def test_the_table(stub: StubApi, dstack: Dstack) -> None:
    serve(stub, a_metric(), a_metric("acc", last=None, last_step=None, max="Infinity", points=[]))
    assert dstack("metrics", "odd-cat-1").out == (
        "JOB    METRIC  LAST  STEP  MIN   MAX  VALUES\n"
        "train  loss    0.25  3     0.25  1    3       █▃▁\n"
        "train  acc     nan         0.25  inf  3\n"
    )


def test_one_metric_of_one_job_as_data(stub: StubApi, dstack: Dstack) -> None:
    serve(stub, a_metric(), a_metric("acc"))
    done = dstack("metrics", "odd-cat-1", "acc", "--job", "train", "--json")
    assert [item["name"] for item in json.loads(done.out)] == ["acc"]
    [call] = stub.named("GET …/runs/odd-cat-1/metrics")
    assert (call.query["job"], call.query["points"]) == ("train", "1000")


def test_a_metric_that_is_not_there(stub: StubApi, dstack: Dstack) -> None:
    serve(stub, a_metric())
    done = dstack("metrics", "odd-cat-1", "los")
    assert (done.code, done.out) == (1, "")
    assert "`odd-cat-1` has no metric `los`" in done.err
    assert "known: loss" in done.err


def test_drawn(stub: StubApi, dstack: Dstack) -> None:
    serve(stub, a_metric())
    lines = dstack("metrics", "odd-cat-1", "--plot").out.splitlines()
    assert lines[0] == "train  loss  last 0.25"
    assert lines[1].startswith("    1 ┤")
    assert lines[12].split() == ["1", "3"]


def test_a_run_without_metrics(stub: StubApi, dstack: Dstack) -> None:
    serve(stub)
    assert "has logged no metrics; a job logs them with dstack.log" in dstack("metrics", "odd-cat-1").err


def a_comparison(**other: Any) -> dict[str, Any]:
    return {
        "runs": [{**a_run("a-1"), "commit": "0123456789abcdef"}, {**a_run("b-1"), "commit": None}],
        "variables": [{"step": "train", "name": "lr", "values": [0.1, None]},
                      {"step": "prepare", "name": "seed", "values": [1, 2]}],
        "inputs": [{"step": "train", "path": "data", "values": ["red-fox-1", "red-fox-2"]}],
        "metrics": [{"job": "train", "name": "loss", "values": [a_metric(), None]},
                    {"job": "train", "name": "acc", "values": [a_metric("acc"), a_metric("acc", max=2.0)]}],
        "code": {"content_ids": ["aa", "bb"],
                 "differences": [{"run": "b-1", "files": [{"path": "new.py", "change": "added"},
                                                          {"path": "train.py", "change": "changed"}]}]},
        "packages": [{"name": "numpy", "values": ["1.26.4", None]}],
        **other,
    }  # fmt: skip


def test_what_sets_runs_apart(stub: StubApi, dstack: Dstack) -> None:
    stub.on("GET …/compare", Reply(body=a_comparison()))
    assert dstack("compare", "a-1", "b-1").out == (
        "                a-1        b-1\n"
        "workflow        train      train\n"
        "status          Done       Done\n"
        "--lr            0.1\n"
        "--prepare.seed  1          2\n"
        "data of         red-fox-1  red-fox-2\n"
        "\n"
        "METRIC, last (best)  a-1          b-1\n"
        "loss                 0.25 (0.25)\n"
        "acc                  0.25 (1)     0.25 (2)\n"
        "\n"
        "Code of b-1 beside a-1 (0123456789):\n"
        "  + new.py\n"
        "  ~ train.py\n"
        "\n"
        "PACKAGE  a-1     b-1\n"
        "numpy    1.26.4\n"
    )


def test_the_same_code_and_parameters(stub: StubApi, dstack: Dstack) -> None:
    same = {"content_ids": ["aa", "aa"], "differences": [{"run": "b-1", "files": []}]}
    stub.on("GET …/compare", Reply(body=a_comparison(variables=[], inputs=[], metrics=[], code=same, packages=[])))
    out = dstack("compare", "a-1", "b-1").out
    assert "All parameters are the same.\n" in out
    assert out.endswith("\nThe code is the same.\n")


def test_a_comparison_as_data(stub: StubApi, dstack: Dstack) -> None:
    stub.on("GET …/compare", Reply(body=a_comparison()))
    [found] = json.loads(dstack("compare", "a-1", "b-1", "--json").out)
    assert found == a_comparison()


def test_one_run_is_not_enough(stub: StubApi, dstack: Dstack) -> None:
    done = dstack("compare", "a-1")
    assert (done.code, done.out) == (2, "")
    assert "name two runs or more" in done.err
