"""Every error that the API answers: one envelope, and one place that turns the core's errors into HTTP.

{"error": {"message": "...", "type": "invalid_request_error", "param": "size", "code": "invalid_request"}}
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ringlight.core.codes import CODES
from ringlight.core.errors import InvalidLayout, InvalidRequest, Problem, QueueFull, RinglightError

logger = logging.getLogger(__name__)

STATUS_CODES = {kind.status: code for code, kind in CODES.items() if kind.is_usual}
"""The code of an answer that the framework itself gives, by its status."""

UNAVAILABLE = "unavailable"
"""The code of what is refused for now, as the server starts, stops or has too many connections; nothing failed."""

WIRE_NAMES = {"image": "input_reference"}
"""Fields of VideoRequest that are called otherwise in the API."""


class HttpError(RinglightError):
    """Answer that is an error.

    `type` follows from the status unless given, and so do the headers about retries. `problems` are all that are wrong
    with a request, where there may be several.
    """

    problems: Sequence[Problem] = ()

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        type: str | None = None,  # noqa: A002 (its name on the wire)
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.type = type or error_type(status)
        self.param = param
        self.headers = _retry_headers(status, code) | dict(headers or {})

    def about(self, param: str) -> HttpError:
        """Same error about another field, which the message names at its beginning."""
        message = self.message.replace(f"{self.param}: ", f"{param}: ", 1)
        return HttpError(self.status, self.code, message, self.type, param, self.headers)

    def body(self) -> dict[str, Any]:
        """The envelope."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The envelope with its status and headers."""
        return JSONResponse(self.body(), self.status, self.headers)


class IdempotencyConflict(RinglightError):
    """Error for an idempotency key that was used with another body."""

    code = "idempotency_conflict"


class VideoNotReady(RinglightError):
    """Error for a file or a report of a video that is not completed."""

    code = "video_not_ready"


class Conflict(RinglightError):
    """Conflict with the state of a video: it is not finished."""

    code = "video_not_finished"


class NotImplementedHere(RinglightError):
    """Error for a call that the API has, but the model cannot do."""

    code = "unsupported"


def error_type(status: int) -> str:
    """OpenAI's `type` of an error with this HTTP status."""
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 and status != 501 else "invalid_request_error"


def _retry_headers(status: int, code: str) -> dict[str, str]:
    known = CODES.get(code)
    headers = {}
    if status in (409, 501) or (known is not None and known.retry is False):
        headers["x-should-retry"] = "false"
    if known is not None and known.retry_seconds is not None:
        headers["Retry-After"] = str(math.ceil(known.retry_seconds))
    return headers


def invalid(problems: Sequence[Problem]) -> HttpError:
    """Build 400 invalid_request: `param` is the first problem's field, the message names all of them."""
    error = HttpError(400, InvalidRequest.code, "; ".join(map(str, problems)), param=problems[0].field)
    error.problems = tuple(problems)
    return error


def to_api_error(error: RinglightError, tell: Callable[[str], str] = str) -> HttpError:
    """The answer for an error of the core, the engine or the store. `tell`: its text as clients may read it."""
    match error:
        case HttpError():
            return error
        case InvalidRequest():
            names = [WIRE_NAMES.get(problem.field, problem.field) for problem in error.problems]
            pairs = zip(error.problems, names, strict=True)
            replace = msgspec.structs.replace
            return invalid([replace(problem, field=name, message=tell(problem.message)) for problem, name in pairs])
        case InvalidLayout():
            return HttpError(400, error.code, tell(str(error)), param="layout")
        case QueueFull():
            retry = {"Retry-After": str(max(1, math.ceil(error.retry_seconds)))}
            return HttpError(429, error.code, tell(str(error)), headers=retry)
    code = error.code if error.code in CODES else RinglightError.code
    return HttpError(CODES[code].status, code, tell(str(error)))


def _from_validation(error: RequestValidationError) -> HttpError:
    """Build the 400 for path, query and header parameters that FastAPI itself checks, instead of its own 422."""
    problems = []
    for item in error.errors():
        where = [str(part) for part in item["loc"][1:]] or [str(item["loc"][0])]
        problems.append(Problem(".".join(where), str(item["msg"])))
    return invalid(problems or [Problem("request", "is not valid")])


def _from_http(error: HTTPException, scope: Scope) -> HttpError:
    code = STATUS_CODES.get(error.status_code, "invalid_request" if error.status_code < 500 else "internal_error")
    message = str(error.detail)
    if error.status_code == 404:
        message = f"there is no path {scope['path']}; /docs lists them"
    elif error.status_code == 405:
        message = f"{scope['path']} does not take {scope['method']}"
    return HttpError(error.status_code, code, message, headers=error.headers)


def unexpected(error: Exception, scope: Scope) -> HttpError:
    """Build 500 internal_error for a defect of ours; its traceback goes to the log, never to the client."""
    logger.error("%s failed", scope.get("path"), exc_info=error)
    return HttpError(500, "internal_error", "the server failed; its log has the cause under this x-request-id")


class Unexpected:
    """Middleware that answers any exception with a 500 in the envelope.

    It is inside the other middleware so that their headers reach it too.

    Starlette's own handler of exceptions stands outside of all middleware, and raises again what it has answered.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:  # the last place where a defect can become an answer
            if scope["type"] != "http" or started:
                raise
            await unexpected(error, scope).response()(scope, receive, send)


def install(app: FastAPI, tell: Callable[[str], str] = str) -> None:
    """Make `app` answer every error in the envelope.

    To be called before other middleware is added, so that this lies inside.

    `tell`: the text of an error as clients may read it; the log has what it leaves out.
    """

    async def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RinglightError)
        answer, said = to_api_error(error, tell), str(error)
        has_failed = answer.type == "server_error" and answer.code != UNAVAILABLE
        if answer.type == "server_error" or tell(said) != said:
            level, what = (logging.ERROR, "failed") if has_failed else (logging.INFO, "is refused")
            logger.log(level, "%s %s: %s: %s", request.url.path, what, error.code, said)
        return answer.response()

    async def parameters(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _from_validation(error).response()

    async def framework(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return _from_http(error, request.scope).response()

    async def outermost(request: Request, error: Exception) -> JSONResponse:
        return unexpected(error, request.scope).response()

    app.add_exception_handler(RinglightError, ours)
    app.add_exception_handler(RequestValidationError, parameters)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(Exception, outermost)
    app.add_middleware(Unexpected)
