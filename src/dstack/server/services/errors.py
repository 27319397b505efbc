"""What a service says no with; `api` and `rpc` turn it into their answers.

ServiceError
├── NotFound    404  nothing of that name
├── Conflict    409  it exists, but not in a state that allows this
├── NothingToDo 409  what was asked for is so already
├── CodeMissing 409  the code snapshot is not in the store: ship it again
├── SnapshotMissing 409  the same of what is uploaded
├── TooLarge    413  more bytes than anything of ours has
└── BadRequest  400  the request itself is wrong (422 with diagnostics for workflows)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ServiceError(Exception):
    code = "error"
    status = 500

    def __init__(self, message: str, *, hint: str = "", diagnostics: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.diagnostics = tuple(diagnostics)


class NotFound(ServiceError):
    code = "not-found"
    status = 404


class Conflict(ServiceError):
    code = "conflict"
    status = 409


class NothingToDo(Conflict):
    code = "nothing-to-do"


class CodeMissing(Conflict):
    code = "code-missing"


class SnapshotMissing(Conflict):
    code = "snapshot-missing"


class TooLarge(ServiceError):
    code = "too-large"
    status = 413


class BadRequest(ServiceError):
    code = "invalid"
    status = 400

    @property
    def http_status(self) -> int:
        return 422 if self.diagnostics else 400
