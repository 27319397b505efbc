"""One error body for everything that goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from sqlalchemy.exc import DataError
from starlette.requests import Request
from starlette.responses import Response

from dstack.server.db.errors import RETRY_AFTER_SECONDS, DatabaseError, DatabaseUnavailable
from dstack.server.services.errors import BadRequest, ServiceError
from dstack.snapshots.errors import SnapshotError, StoreRefused
from dstack.workflows import Invalid

_log = logging.getLogger(__name__)


def answer_errors(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """`handler`, with its exceptions turned into the error body."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except Invalid as error:
            return _answer(422, "invalid", str(error), diagnostics=error.diagnostics)
        except BadRequest as error:
            return _answer(error.http_status, error.code, error.message, error.hint, error.diagnostics)
        except ServiceError as error:
            return _answer(error.status, error.code, error.message, error.hint, error.diagnostics)
        except DatabaseUnavailable as error:
            answer = _answer(503, "unavailable", str(error))
            answer.headers["retry-after"] = str(RETRY_AFTER_SECONDS)
            return answer
        except StoreRefused as error:
            return _answer(507, "storage", str(error))
        except (DatabaseError, SnapshotError) as error:
            return _answer(500, "storage", str(error))
        except (DataError, OverflowError) as error:
            cause = error.orig if isinstance(error, DataError) else error
            return _answer(400, "invalid", f"the request holds what no database can: {cause}")
        except ValueError as error:
            return _answer(400, "invalid", f"the request cannot be read: {error}")
        except Exception as error:  # noqa: BLE001 - the last resort, below
            # The one place for what nobody foresaw: told in full in the server's log, in a sentence to the caller.
            _log.exception("%s %s failed", request.method, request.url.path)
            message = f"the server failed: {type(error).__name__}: {error}"
            return _answer(500, "internal", message, "its log has the details (`dstack server status` says where)")

    return endpoint


def _answer(status: int, code: str, message: str, hint: str = "", diagnostics: Any = ()) -> Response:
    body = {"error": {"code": code, "message": message, "hint": hint or None, "diagnostics": list(diagnostics)}}
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")
