"""Calls that the server makes on behalf of a request: only to hosts that the operator allows, and public addresses.

A name is resolved once, all of its addresses are looked at, and the connection goes to one of those, with the name
kept in Host and in TLS: whoever answers a second look-up otherwise (DNS rebinding) is not asked. Redirects are
followed by hand, each as checked as the first. Size and time are bounded while bytes come.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property

import anyio.to_thread
import httpx

from ringlight.core.errors import InvalidSetting
from ringlight.core.plain import plain
from ringlight.server.http.http_error import HttpError
from ringlight.server.safety.addresses import DEFAULT_PORTS, HostRule, is_disguised, is_public

MAX_REDIRECTS = 3
MAX_URL_CHARS = 4096
CONNECT_SECONDS = 5.0  # to one of several addresses

Resolve = Callable[[str, int], Sequence[str]]


def resolve_host(host: str, port: int) -> list[str]:
    """Resolve all addresses of a host, as text. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Outbound:
    """Client for calls. Errors are HttpError 400 `{purpose}_refused` and `{purpose}_failed`, with `param`."""

    def __init__(
        self,
        allowed_hosts: Sequence[str],
        timeout_seconds: float,
        max_bytes: int,
        *,
        purpose: str = "image_url",
        param: str = "input_reference",
        resolve: Resolve = resolve_host,
        allow_private: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Set limits. `timeout_seconds` bounds a call with its redirects. Raises InvalidSetting for what is no host.

        `allow_private` is for tests, whose servers are on this machine.
        """
        try:
            self._rules = [HostRule.parse(host) for host in allowed_hosts]
        except ValueError as error:
            raise InvalidSetting(str(error)) from None
        self._timeout_seconds = timeout_seconds
        self._max_bytes = max_bytes
        self._purpose = purpose
        self._param = param
        self._resolve = resolve
        self._allow_private = allow_private
        self._given_tls = tls

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """TLS context, made when it is first needed, because reading all certificates takes a tenth of a second."""
        return self._given_tls or httpx.create_ssl_context(trust_env=False)

    async def get(self, url: str) -> bytes:
        """Fetch the content of a URL."""
        async with self._bounded():
            for _ in range(MAX_REDIRECTS + 1):
                async with self._request("GET", url) as response:
                    if response.has_redirect_location:
                        url = self._joined(url, response.headers["location"])
                        continue
                    if response.status_code != 200:
                        raise self._failed(f"the host answered {response.status_code}")
                    return await self._read(response)
            raise self._failed(f"there are more than {MAX_REDIRECTS} redirects")

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Send a body; return the status of the answer, whose content is not read. Redirects are not followed."""
        async with self._bounded(), self._request("POST", url, body, headers) as response:
            return response.status_code

    async def check(self, url: str) -> None:
        """Raise the error with which a call would be refused, without making it."""
        async with self._bounded():
            await self._addresses(self._parse(url))

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                yield
        except TimeoutError:
            raise self._failed(f"it took more than {plain(self._timeout_seconds)} s") from None

    @asynccontextmanager
    async def _request(
        self, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Make one exchange with a checked address, on a connection of its own."""
        target = self._parse(url)
        addresses = await self._addresses(target)
        # A transport, not a client: no proxies from the environment, cookies, credentials or redirects of its own.
        async with httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False) as transport:
            try:
                for address in addresses:
                    request = self._pinned(target, address, method, body, headers or {})
                    try:
                        response = await transport.handle_async_request(request)
                        break
                    except (httpx.ConnectError, httpx.ConnectTimeout):
                        if address == addresses[-1]:
                            raise
                try:
                    yield response
                finally:
                    await response.aclose()
            except httpx.TransportError as error:
                raise self._failed(f"{type(error).__name__} {error}".strip()) from None

    def _pinned(
        self, target: httpx.URL, address: str, method: str, body: bytes, headers: Mapping[str, str]
    ) -> httpx.Request:
        """Build a request to this address that still is one to the host by its name, in Host and in TLS."""
        ours = {"host": target.netloc.decode("ascii"), "connection": "close", "accept-encoding": "identity"}
        timeout = httpx.Timeout(self._timeout_seconds, connect=min(self._timeout_seconds, CONNECT_SECONDS))
        return httpx.Request(
            method,
            target.copy_with(host=address, fragment=None),
            content=body or None,
            headers={"user-agent": "ringlight", **headers, **ours},
            extensions={"sni_hostname": _host(target), "timeout": timeout.as_dict()},
        )

    async def _read(self, response: httpx.Response) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self._failed("the host sends it compressed, which was not asked for")
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > self._max_bytes:
                raise self._failed(f"it is over the limit of {self._max_bytes} bytes")
        return bytes(content)

    def _parse(self, url: str) -> httpx.URL:
        """Parse a URL, whose scheme, host and port must be allowed."""
        if len(url) > MAX_URL_CHARS:
            raise self._refused(f"the URL has more than {MAX_URL_CHARS} characters")
        try:
            target = httpx.URL(url)
            host = _host(target)
        except (httpx.InvalidURL, ValueError) as error:
            raise self._refused(f"it is not a URL: {error}") from None
        if target.scheme not in DEFAULT_PORTS:
            raise self._refused(f"the scheme {target.scheme or 'is missing; it'} is not http or https")
        if target.userinfo:
            raise self._refused("the URL holds a user or a password")
        if not host or is_disguised(host):
            raise self._refused("the host is neither a name nor an IP address in its usual form")
        if not any(rule.allows(target.scheme, host, _port(target)) for rule in self._rules):
            raise self._refused(f"the operator does not allow {target.netloc.decode('ascii')} ({target.scheme})")
        return target

    async def _addresses(self, target: httpx.URL) -> list[str]:
        """Addresses to connect to. All addresses of a name must be public, or its owner could choose among them."""
        host, port = _host(target), _port(target)
        try:
            found = await anyio.to_thread.run_sync(self._resolve, host, port, abandon_on_cancel=True)
            addresses = [ipaddress.ip_address(address) for address in found]
        except (OSError, ValueError):  # UnicodeError, for a name that cannot be one, is a ValueError
            addresses = []
        if not addresses:
            raise self._failed(f"the host {host} has no address")
        if not self._allow_private and not all(map(is_public, addresses)):
            raise self._refused(f"the host {host} has an address that is not public")
        return [str(address) for address in addresses]

    def _joined(self, url: str, location: str) -> str:
        try:
            return str(httpx.URL(url).join(location))
        except (httpx.InvalidURL, ValueError) as error:
            raise self._refused(f"it redirects to what is not a URL: {error}") from None

    def _refused(self, why: str) -> HttpError:
        return HttpError(400, f"{self._purpose}_refused", f"{self._param}: {why}", param=self._param)

    def _failed(self, why: str) -> HttpError:
        return HttpError(400, f"{self._purpose}_failed", f"{self._param}: {why}", param=self._param)


def _host(url: httpx.URL) -> str:
    """Host as it goes into DNS and TLS: ASCII, lower case, without a last dot."""
    return url.raw_host.decode("ascii").lower().rstrip(".")


def _port(url: httpx.URL) -> int:
    return DEFAULT_PORTS[url.scheme] if url.port is None else url.port
