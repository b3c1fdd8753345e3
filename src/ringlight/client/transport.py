"""Sending requests: once more where that can help, and errors as exceptions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from typing import Any, TypeVar

import httpx

from ringlight.client.api_error import ApiError, Unreachable
from ringlight.core.errors import InvalidSetting

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
UNTRUSTED = "; where an authority of your own has signed its certificate, name that one's: SSL_CERT_FILE=ca.pem"

Result = TypeVar("Result")


class Transport:
    """Connection to one server, with its key. Calls that fail in passing are repeated at most `max_retries` times.

    That is a lost connection, and an answer that says "later". Whoever creates something sends an idempotency key.
    """

    def __init__(self, url: str, api_key: str | None, timeout_seconds: float, max_retries: int) -> None:
        """Check the address and the key. Raises InvalidSetting for what is no URL, or a key that fits no header."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise InvalidSetting(f"url {url!r}: {error}") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise InvalidSetting(f"url {url!r} is not one such as http://127.0.0.1:8898")
        if api_key and not api_key.isascii():
            raise InvalidSetting("the API key holds characters that are not ASCII")
        headers = {"user-agent": f"ringlight/{version('ringlight')}"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self.url = url.rstrip("/").removesuffix("/v1")  # as OpenAI's clients are given it
        self._max_retries = max_retries
        self._http = httpx.Client(headers=headers, timeout=timeout_seconds)

    def close(self) -> None:
        self._http.close()

    def send(self, method: str, path: str, **parts: Any) -> httpx.Response:
        """Send a request, and return its answer, read. Raises ApiError and Unreachable."""
        return self.persist(lambda: self.once(method, path, **parts))

    @contextmanager
    def stream(self, path: str, **parts: Any) -> Iterator[httpx.Response]:
        """Yield an answer whose body is read as it comes, without retries then. Raises ApiError and Unreachable."""
        response = self.persist(lambda: self.once("GET", path, stream=True, **parts))
        with closing(response), self._reached():
            yield response

    def persist(self, call: Callable[[], Result]) -> Result:
        """Repeat a call until it returns; raise its last error if it never does."""
        attempt = 0
        while True:
            try:
                return call()
            except (ApiError, Unreachable) as error:
                if attempt == self._max_retries or not error.is_passing:
                    raise
                pause_seconds = FIRST_PAUSE_SECONDS * 2**attempt if error.retry_seconds is None else error.retry_seconds
            time.sleep(min(pause_seconds, LONGEST_PAUSE_SECONDS))
            attempt += 1

    def once(self, method: str, path: str, stream: bool = False, **parts: Any) -> httpx.Response:
        """Send a request as `send` does, but only once; with `stream` the body of the answer is yet to be read.

        That may come from another address, such as an object store's; no other host is sent the key.
        """
        with self._reached():
            request = self._http.build_request(method, self.url + path, **parts)
            response = self._http.send(request, stream=stream, follow_redirects=stream)
            if not response.is_success:
                with closing(response):
                    raise ApiError.of(response.status_code, response.headers, response.read())
        return response

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Raise Unreachable if the connection fails within this context."""
        try:
            yield
        except httpx.TransportError as error:
            remedy = UNTRUSTED if "CERTIFICATE_VERIFY_FAILED" in str(error) else ""
            raise Unreachable(f"{self._place(error)}: {error or type(error).__name__}{remedy}") from None

    def _place(self, error: httpx.TransportError) -> str:
        """Address that did not answer: the server's, or the one it redirected to."""
        try:
            asked = error.request.url
        except RuntimeError:  # it does not say
            return self.url
        return self.url if str(asked).startswith(self.url) else f"{asked.scheme}://{asked.netloc.decode()}"
