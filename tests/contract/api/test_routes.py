"""Each route of docs/design/interfaces.md: what is sent, what comes back, which fields it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
from starlette.routing import Route

import dstack
from dstack.server.api.routes import routes as api_routes
from dstack.server.rpc.routes import routes as rpc_routes
from tests.support.http import BASE, Asked
from tests.support.runner import FakeRunner
from tests.support.world import REPOSITORY, World

INTERFACES = Path(__file__).parents[3] / "docs" / "design" / "interfaces.md"

WORKFLOWS = """
workflows:
  - name: prepare
    help: Make the data.
    provider: bash
    commands: [make data]
    artifacts: [data]
  - name: train
    provider: bash
    depends-on: [prepare]
    commands: ["make model ${{ epochs }}"]
    artifacts: [model]
"""
FILES = {".dstack/workflows.yaml": WORKFLOWS, ".dstack/variables.yaml": "variables:\n  global:\n    epochs: 3\n"}


def submission(workflow: str = "train", **more: Any) -> dict[str, Any]:
    return {"workflow": workflow, "files": FILES, "repository": {"key": REPOSITORY, "name": "digits"}, **more}


def submitted(asked: Asked, workflow: str = "train", **more: Any) -> str:
    return asked.post("runs", submission(workflow, **more), 201)["name"]


def done(asked: Asked, runner: FakeRunner, workflow: str = "prepare") -> str:
    name = submitted(asked, workflow)
    asked.world.complete(runner)
    return name


def fields_of(word: str) -> set[str]:
    """The fields that interfaces.md gives for **Run**, **Job**, …"""
    text = re.search(rf"\*\*{word}\*\* `\{{(.*?)\}}`", INTERFACES.read_text(), re.DOTALL)
    assert text is not None, word
    flat = re.sub(r"\[?\{.*?\}\]?", "", text[1].replace("\n", " "), flags=re.DOTALL)
    return {part.split(":")[0].strip().strip('"') for part in flat.split(",") if part.strip()}


def test_every_route_is_in_the_interfaces(world: World) -> None:
    text = INTERFACES.read_text()
    for route in [*api_routes(world.context, lambda: None), *rpc_routes(world.context)]:
        assert isinstance(route, Route)
        last = route.path.replace(BASE.replace("main", "{project}"), "").replace("{name}", "NAME")
        last = last.replace("{key:path}", "KEY").rstrip("/")
        if last.startswith("/rpc/"):
            continue  # in protocol/messages.py
        word = re.sub(r"^/store/(?!blobs).*", "/store/", last)
        assert word in text, f"{route.methods} {route.path} is not in docs/design/interfaces.md"
    for path in ("register", "poll", "events", "logs", "goodbye"):
        assert path in (Path(dstack.__file__).parent / "protocol" / "messages.py").read_text()


def test_info(asked: Asked) -> None:
    runner = asked.world.runner(slots=3)
    done(asked, runner)
    submitted(asked)
    info = asked.ok(asked.client.get("/api/v1/info"))
    assert info["version"] == dstack.__version__
    assert info["active_jobs"] == 2
    assert info["runners"] == [{"name": "north", "status": "online", "slots": 3}]
    wanted = {"version", "protocol", "deployment", "pid", "started_at", "database", "store", "active_jobs", "runners"}
    assert wanted <= set(info)


def test_shutdown(asked: Asked) -> None:
    assert asked.client.post("/api/v1/shutdown").status_code == 202
    assert asked.ends == 1


def test_submit(asked: Asked) -> None:
    run = asked.post("runs", submission(args=["--epochs", "5"], user="ada"), 201)
    assert fields_of("Run") <= set(run)
    assert fields_of("Job") <= set(run["jobs"][0])
    assert (run["status"], run["workflow"], run["user"]) == ("queued", "train", "ada")
    assert run["variables"] == {"epochs": 5}
    assert re.fullmatch(r"run_[0-9a-f]{32}", run["id"])
    assert re.fullmatch(r"job_[0-9a-f]{32}", run["jobs"][0]["id"])
    assert [(job["name"], job["step"], job["provider"], job["status"]) for job in run["jobs"]] == [
        ("prepare", "prepare", "bash", "queued"),
        ("train", "train", "bash", "waiting"),
    ]


def test_submit_with_a_key_twice(asked: Asked) -> None:
    first = asked.post("runs", submission(), 201, idempotency_key="k")
    again = asked.post("runs", submission(), 200, idempotency_key="k")
    assert first["name"] == again["name"]
    assert len(asked.get("runs")["items"]) == 1


def test_submit_what_is_wrong(asked: Asked) -> None:
    files = {".dstack/workflows.yaml": "workflows:\n  - name: train\n    provder: python\n"}
    error = asked.refused(asked.client.post(f"{BASE}/runs", json=submission(files=files)), 422, "invalid")
    first = error["diagnostics"][0]
    assert set(first) == {"severity", "file", "line", "column", "message", "source", "hint"}
    positions = [(item["file"], item["line"], item["column"]) for item in error["diagnostics"]]
    assert (".dstack/workflows.yaml", 3, 5) in positions
    assert any("provider" in item["hint"] for item in error["diagnostics"])
    error = asked.refused(asked.client.post(f"{BASE}/runs", json=submission("trian")), 422, "invalid")
    assert error["diagnostics"][0]["file"] is None
    assert "train" in error["diagnostics"][0]["hint"]


def test_submit_code_that_is_not_there(asked: Asked) -> None:
    code = {"manifest_id": "ab" * 32, "content_id": "cd" * 32, "files": 1, "size": 2}
    asked.refused(asked.client.post(f"{BASE}/runs", json=submission(code=code)), 409, "code-missing")


def test_plan(asked: Asked) -> None:
    runner = asked.world.runner()
    plan = asked.post("plan", submission(args=["--epochs", "7"]))
    assert {"workflow", "steps", "code", "warnings"} == set(plan)
    prepare, train = plan["steps"]
    wanted = {
        "name", "workflow", "provider", "action", "from", "tag", "needs", "requirements", "environment", "commands",
        "artifacts", "variables", "misfit", "why", "jobs", "env", "policy",
    }  # fmt: skip
    assert set(prepare) == set(train) == wanted
    assert (train["action"], train["needs"], train["commands"]) == ("run", ["prepare"], ["make model 7"])
    assert train["variables"]["epochs"] == {"value": 7, "source": "command line"}
    assert train["policy"] == {
        "condition": None, "timeout": None, "retry": None, "fail_fast": False, "continue_on_failure": False,
    }  # fmt: skip
    name = done(asked, runner)
    files = {".dstack/workflows.yaml": WORKFLOWS.replace("[prepare]", "[prepare:latest]")}
    reuse = asked.post("plan", submission(files=files, args=["--epochs", "1"]))["steps"][0]
    assert (reuse["action"], reuse["from"], reuse["artifacts"]) == ("reuse", name, ["data"])
    assert set(reuse) == wanted
    assert len(asked.get("runs")["items"]) == 1, "a plan is no run"
    asked.refused(asked.client.post(f"{BASE}/plan", json=submission("nothing")), 422, "invalid")


POLICIES = """\
workflows:
- {name: fetch, provider: bash, commands: [a], if: fresh}
- name: train
  provider: bash
  commands: ["login ${{ secrets.KEY }}"]
  depends-on: [fetch]
  if: not failed()
  env: [A=b, "TOKEN=x ${{ secrets.KEY }}", HERE]
  timeout: 2h
  retry: {on: lost, max: 2}
  continue-on-failure: true
"""


def test_a_plan_tells_conditions_policies_and_where_values_come_from(asked: Asked) -> None:
    texts = {".dstack/workflows.yaml": POLICIES}
    body = submission(files=texts, args=["--fresh", "no"])
    error = asked.refused(asked.client.post(f"{BASE}/plan", json=body), 422, "invalid")
    assert [item["message"] for item in error["diagnostics"]] == [
        "there is no secret `KEY`", "there is no secret `KEY`", "`HERE` is not set in your shell",
    ]  # fmt: skip
    repository = {"repository": body["repository"], "name": "KEY", "value": "s3cret-value"}
    assert asked.client.post(f"{BASE}/secrets", json=repository).status_code == 201
    plan = asked.post("plan", {**body, "values": {"HERE": "value-of-here"}})
    fetch, train = plan["steps"]
    assert (fetch["action"], fetch["why"]) == ("skip", "its condition is false: `fresh`")
    assert fetch["policy"]["condition"] == "fresh"
    assert (train["action"], train["why"]) == ("run", None)
    assert train["env"] == {
        "A": "b", "TOKEN": "x ${{ secrets.KEY }}", "HERE": "$HERE of your shell",
        "DSTACK_SECRET_KEY": "${{ secrets.KEY }}",
    }  # fmt: skip
    assert train["commands"] == ['login "${DSTACK_SECRET_KEY}"']
    assert train["policy"] == {
        "condition": "not failed()", "timeout": 7200, "fail_fast": False, "continue_on_failure": True,
        "retry": {"on": ["preempted", "runner-lost", "unknown-exit"], "max": 2, "backoff": 1},
    }  # fmt: skip
    assert "value-of-here" not in str(plan)
    assert "s3cret-value" not in str(plan)


def test_validate(asked: Asked) -> None:
    good = asked.post("validate", {"files": FILES})
    assert good["diagnostics"] == []
    assert good["workflows"][0] == {
        "name": "prepare", "provider": "bash", "file": ".dstack/workflows.yaml", "line": 3, "help": "Make the data.",
        "variables": {
            "epochs": {
                "value": 3, "source": ".dstack/variables.yaml:3", "required": False, "type": None, "choices": [],
                "min": None, "max": None, "help": "",
            }
        },
    }  # fmt: skip
    assert {"bash", "python"} <= set(good["providers"])
    warned = asked.post("validate", {"files": {".dstack/workflows.yaml": WORKFLOWS}})
    assert [(item["severity"], item["line"]) for item in warned["diagnostics"]] == [("warning", 11)]
    assert len(warned["workflows"]) == 2, "what lacks only a value is no error"
    bad = asked.post("validate", {"files": {".dstack/workflows.yaml": "workflows: ["}})
    assert bad["diagnostics"]
    assert good["described"] is None
    described = asked.post("validate", {"files": FILES, "describe": "prepare"})["described"]
    assert described["usage"] is None
    assert {"option": "    --cpu N", "help": "ask for so many processors"} in described["options"]
    described = asked.post("validate", {"files": {}, "describe": "bash"})["described"]
    assert described["usage"].startswith("bash -c COMMAND")
    assert "-p, --ports N" in {item["option"] for item in described["options"]}


def test_a_provider_runs_without_any_file(asked: Asked) -> None:
    body = {**submission("bash", args=["-c", "echo a", "--cpu", "2"]), "files": {}}
    run = asked.client.post(f"{BASE}/runs", json=body)
    assert run.status_code == 201
    assert run.json()["workflow"] == "bash"
    (step,) = asked.post("plan", body)["steps"]
    assert (step["commands"], step["requirements"]) == (["echo a"], "2 CPUs")
    error = asked.refused(asked.client.post(f"{BASE}/runs", json={**body, "workflow": "bsh"}), 422, "invalid")
    assert error["diagnostics"][0]["message"] == "there is no `.dstack/workflows.yaml`"
    assert asked.post("validate", {}) == asked.post("validate", {"files": {}})


def test_list_runs(asked: Asked) -> None:
    names = [submitted(asked) for _ in range(5)]
    page = asked.get("runs", limit=2)
    assert [run["name"] for run in page["items"]] == names[:2:-1]
    page = asked.get("runs", limit=2, cursor=page["next"])
    assert [run["name"] for run in page["items"]] == names[2:0:-1]
    page = asked.get("runs", limit=2, cursor=page["next"])
    assert ([run["name"] for run in page["items"]], page["next"]) == ([names[0]], None)
    assert len(asked.get("runs")["items"]) == 5
    asked.world.stop(names[3])
    assert [run["name"] for run in asked.get("runs", active=1)["items"]] == [names[4], *names[2::-1]]


def test_list_runs_of_a_repository(asked: Asked) -> None:
    name = submitted(asked)
    other = {"key": "git:other:.", "name": "other"}
    asked.post("runs", submission(repository=other), 201)
    assert [run["name"] for run in asked.get("runs", repository=REPOSITORY)["items"]] == [name]
    renamed = {"key": "git:renamed:.", "name": "digits", "aliases": [REPOSITORY]}
    again = asked.post("runs", submission(repository=renamed), 201)["name"]
    assert [run["name"] for run in asked.get("runs", repository="git:renamed:.")["items"]] == [again, name]
    assert asked.get("runs", repository="git:never:.") == {"items": [], "next": None}


def test_show_run(asked: Asked) -> None:
    name = submitted(asked)
    run, listed = asked.get(f"runs/{name}"), asked.get("runs")["items"][0]
    whys = [job.pop("why_waiting") for job in run["jobs"]]
    assert whys == ["no runner is online; one is started with `dstack runner`", "waits for prepare to finish"]
    assert [job.pop("why_waiting") for job in listed["jobs"]] == [None, None], "lists do not ask"
    assert run == listed
    error = asked.refused(asked.client.get(f"{BASE}/runs/{name}x"), 404, "not-found")
    assert name in error["hint"]


def test_stop(asked: Asked) -> None:
    name = submitted(asked)
    response = asked.client.post(f"{BASE}/runs/{name}/stop", json={"abort": False}, headers={"x-dstack-user": "bob"})
    run = asked.ok(response)
    assert (run["status"], run["message"], run["exit_code"]) == ("stopped", "", 122)
    assert "bob" in run["reason_text"]
    assert asked.post(f"runs/{name}/stop", {"abort": True})["message"] == "already finished"
    assert asked.post(f"runs/{name}/stop")["message"] == "already finished", "an empty body is a plain stop"
    name = submitted(asked)
    assert asked.post(f"runs/{name}/stop", {"job": "prepare"})["job_counts"] == {"stopped": 1, "skipped": 1}
    asked.refused(asked.client.post(f"{BASE}/runs/{name}/stop", json={"job": "x"}), 404, "not-found")
    asked.refused(asked.client.post(f"{BASE}/runs/nobody-1/stop", json={}), 404, "not-found")


def test_explain(asked: Asked) -> None:
    runner = asked.world.runner(slots=1)
    name = submitted(asked)
    found = asked.get(f"runs/{name}/explain")
    assert {"summary", "lines", "root_cause", "waiting"} == set(found)
    assert [item["job"] for item in found["waiting"]] == ["prepare", "train"]
    asked.world.place()
    runner.take()
    runner.log("prepare", b"first\nlast words\n")
    runner.finish("prepare", 3)
    cause = asked.get(f"runs/{name}/explain")["root_cause"]
    assert {"job", "reason", "sentence", "exit_code", "tail"} == set(cause)
    assert (cause["job"], cause["exit_code"], cause["tail"]) == ("prepare", 3, ["first", "last words"])
    asked.refused(asked.client.get(f"{BASE}/runs/nobody-1/explain"), 404, "not-found")


def test_logs(asked: Asked) -> None:
    runner = asked.world.runner()
    name = submitted(asked, "prepare")
    asked.world.place()
    runner.take()
    runner.log("prepare", b"hello\n")
    runner.finish("prepare")
    frames = asked.frames(name)
    assert [head["t"] for head, _ in frames] == ["log", "job", "run", "end"]
    assert frames[0] == ({"t": "log", "job": "prepare", "attempt": 1, "offset": 0, "n": 6}, b"hello\n")
    assert frames[-1][0]["run"] == asked.get(f"runs/{name}")
    asked.refused(asked.client.get(f"{BASE}/runs/nobody-1/logs"), 404, "not-found")


def test_packages(asked: Asked) -> None:
    runner = asked.world.runner()
    name = submitted(asked, "prepare")
    asked.world.place()
    runner.poll()
    assert asked.get(f"runs/{name}/packages") == {"items": []}
    runner.accept("prepare")
    runner.start("prepare", ["alpha==1.0"])
    assert asked.get(f"runs/{name}/packages") == {"items": [{"job": "prepare", "packages": ["alpha==1.0"]}]}
    assert len(asked.get(f"runs/{name}")["jobs"][0]["packages_digest"]) == 64
    asked.refused(asked.client.get(f"{BASE}/runs/nobody-1/packages"), 404, "not-found")


def test_tags(asked: Asked) -> None:
    runner = asked.world.runner()
    name = done(asked, runner, "train")
    response = asked.client.post(f"{BASE}/tags", json={"run": name, "name": "good"}, headers={"x-dstack-user": "bob"})
    made = asked.ok(response)["items"]
    assert [set(item) for item in made] == [fields_of("Tag")] * 2
    assert [(item["workflow"], item["name"], item["run"], item["user"]) for item in made] == [
        ("prepare", "good", name, "bob"),
        ("train", "good", name, "bob"),
    ]
    assert asked.get("tags")["items"] == made
    assert asked.get("tags", repository=REPOSITORY)["items"] == made
    assert asked.get("tags", repository="git:never:.")["items"] == []
    # A remote was added: its key is new, and the id in the git directory is what it was.
    assert asked.get("tags", repository="git:never:.", alias=["id:none", REPOSITORY])["items"] == made

    mine: Any = {"params": {"workflow": "train"}, "headers": {"idempotency-key": "once"}}
    removed = asked.ok(asked.client.delete(f"{BASE}/tags/good", **mine))["items"]
    assert [item["workflow"] for item in removed] == ["train"]
    assert asked.ok(asked.client.delete(f"{BASE}/tags/good", **mine)) == {"items": []}, "its answer was lost"
    asked.refused(asked.client.delete(f"{BASE}/tags/bad"), 404, "not-found")
    never = asked.client.delete(f"{BASE}/tags/good", params={"repository": "git:never:."})
    asked.refused(never, 404, "not-found")
    assert len(asked.get("tags")["items"]) == 1, "a repository that is not known is not all of them"
    asked.refused(asked.client.post(f"{BASE}/tags", json={"run": "nobody-1", "name": "x"}), 404, "not-found")
    asked.refused(asked.client.post(f"{BASE}/tags", json={"run": name, "name": "a b"}), 400, "invalid")
    asked.refused(asked.client.post(f"{BASE}/tags", json={"run": submitted(asked), "name": "x"}), 409, "conflict")


def test_artifacts(asked: Asked) -> None:
    runner = asked.world.runner()
    name = done(asked, runner, "train")
    items = asked.get("artifacts", run=name)["items"]
    assert [set(item) for item in items] == [fields_of("Artifact")] * 2
    assert [(item["job"], item["path"], item["partial"]) for item in items] == [
        ("prepare", "data", False),
        ("train", "model", False),
    ]
    assert re.fullmatch(r"[0-9a-f]{64}", items[0]["manifest_id"])
    assert [item["path"] for item in asked.get("artifacts", run=name, workflow="train")["items"]] == ["model"]
    assert [item["path"] for item in asked.get("artifacts", run=name, job="prepare")["items"]] == ["data"]
    asked.world.tag(name, "good")
    assert asked.get("artifacts", tag="good", repository=REPOSITORY)["items"] == items
    elsewhere = asked.get("artifacts", run=name, repository="git:never:.")["items"]
    assert elsewhere == items, "a run is found from wherever one stands"
    for query in ({"run": "nobody-1"}, {"tag": "bad"}, {"tag": "good", "repository": "git:never:."}):
        asked.refused(asked.client.get(f"{BASE}/artifacts", params=query), 404, "not-found")
    asked.refused(asked.client.get(f"{BASE}/artifacts"), 400, "invalid")


def test_another_project_is_not_found(asked: Asked) -> None:
    asked.refused(asked.client.get("/api/v1/projects/other/runs"), 404, "not-found")


def test_fields_that_are_not_known_are_ignored(asked: Asked) -> None:
    body = submission(novelty={"a": 1}, dstack_options={"detach": True})
    body["repository"]["novelty"] = 1
    run = asked.post("runs", body, 201)
    assert asked.post(f"runs/{run['name']}/stop", {"abort": False, "novelty": 1})["status"] == "stopped"


def test_times_are_microseconds_and_json_has_no_bytes(asked: Asked) -> None:
    runner = asked.world.runner()
    name = done(asked, runner)
    run = asked.get(f"runs/{name}")
    now = asked.world.clock.now()
    for at in (run["submitted_at"], run["started_at"], run["finished_at"]):
        assert at == now
    assert msgspec.json.decode(asked.client.get(f"{BASE}/runs/{name}").content) == run
