"""The server's HTTP API (`/api/v1`, docs/design/interfaces.md), as calls.

ApiError          the server's own "no": code, message, hint, diagnostics
Unreachable       no answer, although everything that is safe to repeat was repeated
"""

from __future__ import annotations

import _thread
import json
import os
import time

from dstack.client.wire import ConnectFailed, WireError, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Self, Unpack

    from dstack.client.planned import Plan, Validation
    from dstack.client.sent import ArtifactsOf, Given, RepositoryRef, Submission, Upload, Wish
    from dstack.client.types import (
        Artifact,
        Comparison,
        DeletedRuns,
        Diagnostic,
        Explanation,
        Info,
        Lineage,
        Metric,
        RetentionRules,
        Run,
        Runner,
        SavedSnapshot,
        Secret,
        Tag,
        Usage,
    )
    from dstack.client.wire import Answer, Body, Transport

    Query = dict[str, str | int | list[str] | None]

FOLLOW_TIMEOUT = 45.0
"""A followed stream says something at least every 15 s; three missed beats are a dead connection."""


class ApiError(Exception):
    """The server refused. `status` is HTTP's; `code` one of invalid, not-found, conflict, unavailable, …"""

    def __init__(
        self, status: int, code: str, message: str, hint: str | None = None, diagnostics: list[Diagnostic] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.diagnostics = diagnostics or []


class Unreachable(Exception):
    """The server gave no answer. The message says where it was sought and what happened."""


class Api:
    """Calls of one project. `connect` finds the server, starting it where that is its way; it may be called again."""

    def __init__(
        self, connect: Callable[[], Transport], *, project: str = "main", user: str = "", patience: float = 10.0
    ) -> None:
        self._connect = connect
        self._user = user
        self._transport: Transport | None = None
        self._patience = patience
        # A snapshot is saved by several threads, and one connection answers one question at a time.
        self._lock = _thread.RLock()
        self._base = _base(project)

    def apart(self) -> Api:
        """The same with a connection of its own, for a call that takes long: others go on meanwhile."""
        other = Api(self._connect, user=self._user, patience=self._patience)
        other._base = self._base
        return other

    @property
    def transport(self) -> Transport:
        """The connection in use, made when first needed."""
        if self._transport is None:
            self._transport = self._connect()
        return self._transport

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def drop(self) -> None:
        """Forget the connection, and with it the server: the next call looks for one anew."""
        with self._lock:
            if self._transport is not None:
                self._transport.close()
                self._transport = None

    # Server

    def info(self) -> Info:
        return self._json("GET", "/api/v1/info")

    def shutdown(self) -> None:
        self._json("POST", "/api/v1/shutdown")

    # Runs

    def submit(self, submission: Submission, key: str) -> Run:
        """Start a run; `key` makes it safe to send again: the same key is the same run."""
        return self._json("POST", f"{self._base}/runs", submission, key=key)

    def plan(self, submission: Submission) -> Plan:
        return self._json("POST", f"{self._base}/plan", submission, repeat=True)

    def validate(
        self,
        files: Mapping[str, str],
        *,
        describe: str | None = None,
        code: Sequence[str] | None = None,
        contents: Mapping[str, str | None] | None = None,
    ) -> Validation:
        """`code`: the files that a run would be sent with, where the workflows are to be held against them; `contents`:
        what is in some of them, in base64 (None: a link to what is not in the code)."""
        body = {"files": files, "describe": describe, "code": code, "contents": contents or {}}
        return self._json("POST", f"{self._base}/validate", body, repeat=True)

    def runs(
        self, *, repository: RepositoryRef | None = None, active: bool = False, limit: int | None = None
    ) -> list[Run]:
        """Newest first; without `limit`, all."""
        query: Query = {**_named(repository), "active": 1 if active else None}
        return self._pages(f"{self._base}/runs", query, limit)

    def run(self, name: str) -> Run:
        return self._json("GET", f"{self._run(name)}")

    def stop(self, name: str, *, job: str | None = None, abort: bool = False) -> Run:
        body = {"abort": abort, **({"job": job} if job else {})}
        return self._json("POST", f"{self._run(name)}/stop", body, repeat=True)

    def given(self, name: str) -> Given:
        """What a run that follows this one has to be given again."""
        return self._json("GET", f"{self._run(name)}/given")

    def resume(self, name: str, wish: Wish, key: str) -> Run:
        """Start a run that follows `name`; `key` makes it safe to send again, as in `submit`."""
        return self._json("POST", f"{self._run(name)}/resume", wish, key=key)

    def plan_resume(self, name: str, wish: Wish) -> Plan:
        return self._json("POST", f"{self._run(name)}/resume/plan", wish, repeat=True)

    def delete_runs(self, names: Sequence[str], *, force: bool = False) -> DeletedRuns:
        return self._json("POST", f"{self._base}/runs/delete", {"runs": names, "force": force})

    def usage(self, *, limit: int | None = None) -> Usage:
        """What takes space; `limit`: how many of the largest runs."""
        return self._json("GET", f"{self._base}/usage{_query({'limit': limit})}")

    def register(self, repository: RepositoryRef) -> None:
        """Make a repository known before its first run."""
        self._json("POST", f"{self._base}/repositories", repository, repeat=True)

    def explain(self, name: str) -> Explanation:
        return self._json("GET", f"{self._run(name)}/explain")

    def diff(self, name: str) -> str:
        """What the code of a run had beyond its commit; empty for nothing."""
        text = self._exchange("GET", f"{self._run(name)}/diff", {}, b"", repeat=True)[1]
        return text.decode(errors="replace")

    def logs(
        self,
        name: str,
        *,
        follow: bool = False,
        job: str | None = None,
        since: int | None = None,
        cursor: Mapping[str, tuple[int, int]] | None = None,
    ) -> Answer:
        """The frame stream of a run, not repeated when cut. `since`: microseconds UTC. `cursor`: see interfaces."""
        query: Query = {"follow": int(follow), "job": job, "since": since}
        if cursor:
            query["cursor"] = json.dumps(cursor, separators=(",", ":"))
        target = f"{self._run(name)}/logs{_query(query)}"
        answer = self.transport.request("GET", target, timeout=FOLLOW_TIMEOUT)
        if answer.status != 200:
            raise _error(answer.status, answer.read())
        return answer

    def metrics(
        self, name: str, *, job: str | None = None, metric: str | None = None, points: int | None = None
    ) -> list[Metric]:
        """What the jobs of a run have logged, with up to `points` values of each."""
        query: Query = {"job": job, "metric": metric, "points": points}
        return self._pages(f"{self._run(name)}/metrics", query, None)

    def runners(self, *, everything: bool = False) -> list[Runner]:
        return self._pages(f"{self._base}/runners", {"all": 1 if everything else None}, None)

    def compare(self, names: Sequence[str]) -> Comparison:
        query = "&".join(f"run={quote(name)}" for name in names)
        return self._json("GET", f"{self._base}/compare?{query}")

    # Tags and artifacts

    def tags(self, *, repository: RepositoryRef | None = None) -> list[Tag]:
        return self._pages(f"{self._base}/tags", _named(repository), None)

    def tag(self, run: str, name: str, *, force: bool = False) -> list[Tag]:
        body = {"run": run, "name": name, "force": force}
        return self._json("POST", f"{self._base}/tags", body, repeat=True)["items"]

    def untag(self, name: str, *, repository: RepositoryRef | None = None, workflow: str | None = None) -> list[Tag]:
        """What was removed; empty where that was done by the same request before, whose answer was lost."""
        query = _query({**_named(repository), "workflow": workflow})
        key = os.urandom(16).hex()
        return self._json("DELETE", f"{self._base}/tags/{quote(name)}{query}", key=key)["items"]

    def artifacts(self, **of: Unpack[ArtifactsOf]) -> list[Artifact]:
        return self._pages(f"{self._base}/artifacts", _saved_by(of), None)

    def artifact_history(self, **of: Unpack[ArtifactsOf]) -> list[SavedSnapshot]:
        """Every snapshot there is of these artifacts, newest first."""
        return self._pages(f"{self._base}/artifacts/history", _saved_by(of), None)

    def lineage(
        self, *, run: str | None = None, tag: str | None = None, repository: RepositoryRef | None = None
    ) -> Lineage:
        query = _query({**_named(repository), "run": run, "tag": tag})
        return self._json("GET", f"{self._base}/lineage{query}")

    def upload(self, upload: Upload, key: str) -> Run:
        """Make a finished run of snapshots that are in the store; `key` makes it safe to send again."""
        return self._json("POST", f"{self._base}/uploads", upload, key=key)

    # Secrets

    def secrets(self, repository: RepositoryRef) -> list[Secret]:
        return self._json("GET", f"{self._base}/secrets{_query(_named(repository))}")["items"]

    def add_secret(self, repository: RepositoryRef, name: str, value: str, *, overwrite: bool = False) -> Secret:
        body = {"repository": repository, "name": name, "value": value, "overwrite": overwrite}
        return self._json("POST", f"{self._base}/secrets", body, repeat=overwrite)

    def update_secret(self, repository: RepositoryRef, name: str, value: str) -> Secret:
        body = {"repository": repository, "value": value}
        return self._json("PUT", f"{self._base}/secrets/{quote(name)}", body, repeat=True)

    def delete_secret(self, repository: RepositoryRef, name: str) -> Secret:
        """As it was; its times are unknown where the same request deleted it before, whose answer was lost."""
        query = _query(_named(repository))
        return self._json("DELETE", f"{self._base}/secrets/{quote(name)}{query}", key=os.urandom(16).hex())

    # Store

    def store_call(self, name: str, body: bytes) -> bytes:
        """One msgpack call of the store: missing, locate, add, sign or sync. All are safe to repeat."""
        headers = {"content-type": "application/msgpack"}
        return self._exchange("POST", f"{self._base}/store/{name}", headers, body, repeat=True)[1]

    def verify(self, body: Mapping[str, Any]) -> Answer:
        """The frames of a check of the store, see interfaces; it ends when nobody reads them."""
        return self._frames("verify", body)

    def collect(self, body: Mapping[str, Any]) -> Answer:
        """The frames of a collection of garbage; the same."""
        return self._frames("gc", body)

    def _frames(self, name: str, body: Mapping[str, Any]) -> Answer:
        headers = {"content-type": "application/json"}
        data = json.dumps(body, separators=(",", ":")).encode()
        target = f"{self._base}/store/{name}"
        answer = self.transport.request("POST", target, headers=headers, body=data, timeout=FOLLOW_TIMEOUT)
        if answer.status != 200:
            raise _error(answer.status, answer.read())
        return answer

    def retention(self) -> RetentionRules:
        return self._json("GET", f"{self._base}/retention")

    def set_retention(self, rules: Mapping[str, str]) -> RetentionRules:
        return self._json("PUT", f"{self._base}/retention", {"rules": rules}, repeat=True)

    def get_blob(self, target: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """(status, bytes): 206 where the range in `headers` was heeded."""
        return self._exchange("GET", target, headers, b"", repeat=True)

    def put_blob(self, target: str, headers: Mapping[str, str], body: Body) -> bytes:
        return self._exchange("PUT", target, headers, body, repeat=True)[1]

    # How a call is made

    def _run(self, name: str) -> str:
        """Where a run is. Raises ApiError for what can be no name of one."""
        if "/" in name:
            run = name.partition("/")[0]
            hint = f"`{run}` is the run; `dstack runs {run}` lists its jobs" if run else None
            raise ApiError(404, "not-found", f"there is no run `{name}`", hint)
        return f"{self._base}/runs/{quote(name)}"

    def _pages(self, target: str, query: Query, limit: int | None) -> list[Any]:
        items: list[Any] = []
        while limit is None or len(items) < limit:
            if limit is not None:
                query["limit"] = limit - len(items)
            page = self._json("GET", target + _query(query))
            items += page["items"]
            if not page.get("next"):
                break
            query["cursor"] = page["next"]
        return items

    def _json(
        self, method: str, target: str, body: object = None, *, key: str | None = None, repeat: bool | None = None
    ) -> Any:
        headers: dict[str, str] = {"x-dstack-user": self._user} if self._user else {}
        data = b""
        if body is not None:
            headers["content-type"] = "application/json"
            data = json.dumps(body, separators=(",", ":")).encode()
        if key is not None:
            headers["idempotency-key"] = key
        safe = method in ("GET", "DELETE") or key is not None if repeat is None else repeat
        text = self._exchange(method, target, headers, data, repeat=safe)[1]
        try:
            return json.loads(text) if text else None
        except ValueError as error:
            raise Unreachable(f"the server's answer to {method} {target} is not JSON: {text[:80]!r}") from error

    def _exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: Body, *, repeat: bool
    ) -> tuple[int, bytes]:
        """Ask until there is a whole answer, for as long as that is safe and `patience` lasts.

        An embedded server may exit idle just when a request is on its way; `connect` then starts it again, so the
        first repetition comes at once. Later ones give a server that is away time to come back.
        """
        deadline = time.monotonic() + self._patience
        pause = 0.0
        while True:
            try:
                with self._lock:
                    answer = self.transport.request(method, target, headers=headers, body=body)
                    content = answer.read()
                break
            except WireError as error:
                self.drop()
                if not (repeat or isinstance(error, ConnectFailed)) or time.monotonic() + pause >= deadline:
                    raise Unreachable(str(error)) from error
            time.sleep(pause)
            pause = min(max(0.1, pause * 2), 2.0)
        if answer.status >= 400:
            raise _error(answer.status, content)
        return answer.status, content


def names_target(project: str, repository: RepositoryRef | None) -> str:
    """Where the names of runs and tags are asked for, by whoever has no time for an `Api`."""
    return f"{_base(project)}/names{_query(_named(repository))}"


def _base(project: str) -> str:
    return f"/api/v1/projects/{quote(project)}"


def _error(status: int, text: bytes) -> ApiError:
    try:
        error = json.loads(text)["error"]
        return ApiError(status, str(error["code"]), str(error["message"]), error.get("hint"), error.get("diagnostics"))
    except (ValueError, KeyError, TypeError, AttributeError):
        shown = text[:200].decode("utf-8", "replace").strip()
        return ApiError(status, "unexpected", f"the server answered {status}: {shown or 'nothing'}")


def _named(repository: RepositoryRef | None) -> Query:
    """What names a repository in a query: all that it is known by."""
    return {"repository": repository.get("key"), "alias": repository.get("aliases", [])} if repository else {}


def _saved_by(of: ArtifactsOf) -> Query:
    plain = {name: of.get(name) for name in ("run", "tag", "workflow", "job")}
    return {**plain, **_named(of.get("repository"))}


def _query(values: Query) -> str:
    pairs: list[str] = []
    for name, value in values.items():
        each = value if isinstance(value, list) else [value]
        pairs += [f"{name}={quote(str(one))}" for one in each if one is not None]
    return "?" + "&".join(pairs) if pairs else ""
