"""Errors of a client: a refusal by the server, and a server that does not answer."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from ringlight.core.errors import RinglightError
from ringlight.wire.errors import ErrorBody, ErrorEnvelope

PASSING = (429, 502, 503, 504)  # 502 and 504 are a proxy's whose server is being restarted
PAGE_BEGINS = 200  # characters, of a page for browsers


class ApiError(RinglightError):
    """Error that the server answered. `param` names the field that is wrong, `request_id` the line in its log.

    `is_passing`: the same request may be accepted later; in `retry_seconds`, where the server says when.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        request_id: str | None = None,
        is_passing: bool = False,
        retry_seconds: float | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id
        self.is_passing = is_passing
        self.retry_seconds = retry_seconds
        super().__init__(message)

    @property
    def message(self) -> str:
        """Message of the server, for people."""
        return str(self)

    @classmethod
    def unexpected(cls, problem: str) -> ApiError:
        """Error for a successful answer with unexpected content, as from another server."""
        return cls(200, "unexpected_answer", problem)

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
        """Error of an answer. One without the server's envelope comes from something in between, such as a proxy."""
        try:
            said = msgspec.json.decode(body, type=ErrorEnvelope).error
        except msgspec.DecodeError:
            said = ErrorBody(message=_of_another(status, body.decode(errors="replace").strip()))
        return cls(
            status,
            said.code or f"http_{status}",
            said.message,
            said.param,
            headers.get("x-request-id"),
            is_passing=status in PASSING and headers.get("x-should-retry") != "false",
            retry_seconds=_seconds(headers.get("retry-after")),
        )


class Unreachable(RinglightError):
    """No answer: the server is not there, or the connection was lost each time."""

    code = "unreachable"
    is_passing = True
    retry_seconds: float | None = None


def _of_another(status: int, body: str) -> str:
    """Say what something that is no Ringlight server answered, such as a proxy; pages for browsers are left out."""
    phrase = {each.value: f" {each.phrase}" for each in HTTPStatus}.get(status, "")
    words = "" if "<html" in body[:PAGE_BEGINS].lower() else body[:200]
    return f"HTTP status {status}{phrase}, not from Ringlight itself{words and f': {words}'}"


def _seconds(retry_after: str | None) -> float | None:
    """Seconds in a Retry-After header; None if it is not a plain number."""
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
