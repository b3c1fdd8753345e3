"""API keys: who calls. Only digests are kept, and a key sees no more than what is its owner's."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from ringlight.core.errors import InvalidSetting
from ringlight.core.settings import ServeSettings
from ringlight.server.http.http_error import HttpError

logger = logging.getLogger(__name__)

MIN_KEY_LENGTH = 16
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
KEY = re.compile(r"[!-~]+")  # what a header can carry without spaces
REALM = 'Bearer realm="ringlight"'


class ApiKeys:
    """The keys that a server takes, each with the name of its owner. Without any, everybody is the owner ""."""

    def __init__(self, keys: Iterable[tuple[str, str]]) -> None:
        """Parse keys: lines, `NAME:KEY` or a bare KEY, each with the place that an error names.

        Raises InvalidSetting, which never holds a key.
        """
        self._names: dict[bytes, str] = {}
        places: dict[str, str] = {}
        for place, line in keys:
            name, digest = _read(place, line)
            if digest in self._names:
                raise InvalidSetting(f"{place}: the same key as {places[self._names[digest]]}; remove one of them")
            if name in places:
                raise InvalidSetting(f"{place}: the name {name} is taken by {places[name]}; each key needs its own")
            self._names[digest], places[name] = name, place

    @classmethod
    def from_settings(cls, settings: ServeSettings) -> Self:
        """Read the keys of `api_key_file` and `api_key`. Raises InvalidSetting, also for a file that holds none."""
        lines = [(f"api key {number}", line) for number, line in enumerate(settings.api_key, 1)]
        if settings.api_key_file:
            lines += _read_file(Path(settings.api_key_file))
        return cls(lines)

    def __len__(self) -> int:
        return len(self._names)

    def identify(self, authorization: str | None) -> str:
        """Identify the owner of an Authorization header's key; "" if no keys are asked for. Raises HttpError 401."""
        if not self._names:
            return ""
        scheme, _, key = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise _refused("an API key is needed: send `Authorization: Bearer KEY`", REALM)
        asked, owner = _digest(key.strip()), None
        for digest, name in self._names.items():  # all of them, so that the time does not tell which one matched
            if hmac.compare_digest(digest, asked):
                owner = name
        if owner is None:
            raise _refused("the API key is not one of this server's", f'{REALM}, error="invalid_token"')
        return owner


def check_exposure(settings: ServeSettings) -> None:
    """Raise InvalidSetting for a server that others could reach and use without a key, unless it is said to be so."""
    has_keys = bool(settings.api_key_file or settings.api_key)
    if has_keys and settings.no_auth:
        raise InvalidSetting("--no-auth contradicts the API keys that are given; leave one of them out")
    if not has_keys and not settings.no_auth and not is_loopback(settings.address):
        raise InvalidSetting(
            f"--host {settings.host or repr('')} can be reached from other machines: give --api-key-file FILE, "
            "or say --no-auth to let everybody in"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there. A name other than localhost counts as outside."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_file(path: Path) -> list[tuple[str, str]]:
    try:
        content, mode = path.read_text(encoding="utf-8"), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise InvalidSetting(f"--api-key-file {path}: {reason}") from None
    if mode & stat.S_IROTH:
        logger.warning("%s can be read by every user of this machine; chmod 600 it", path)
    lines = [(f"{path} line {number}", line.strip()) for number, line in enumerate(content.splitlines(), 1)]
    lines = [(place, line) for place, line in lines if line and not line.startswith("#")]
    if not lines:
        raise InvalidSetting(f"--api-key-file {path}: holds no key; write `NAME:KEY`, one a line")
    return lines


def _read(place: str, line: str) -> tuple[str, bytes]:
    """Name and digest of one line."""
    name, colon, key = line.partition(":")
    if not colon:
        name, key = "", line
    name, key = name.strip(), key.strip()
    if colon and not NAME.fullmatch(name):
        raise InvalidSetting(f"{place}: the name before the colon must be 1 to 64 letters, digits, dots, - or _")
    if not KEY.fullmatch(key):
        raise InvalidSetting(f"{place}: a key is made of printable ASCII without spaces")
    if len(key) < MIN_KEY_LENGTH:
        raise InvalidSetting(
            f"{place}: a key needs at least {MIN_KEY_LENGTH} characters, such as `openssl rand -hex 24`"
        )
    digest = _digest(key)
    return name or f"key-{digest.hex()[:8]}", digest


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _refused(message: str, challenge: str) -> HttpError:
    return HttpError(401, "invalid_api_key", message, headers={"WWW-Authenticate": challenge})
