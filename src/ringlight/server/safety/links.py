"""Links to files of videos: whoever has one may fetch that file for some time, without a key.

Browsers need them, whose players send none."""

from __future__ import annotations

import hmac
import math
import secrets
from typing import NamedTuple
from urllib.parse import urlencode

from ringlight.core.clock import Clock
from ringlight.server.http.http_error import HttpError

SECRET_BYTES = 32


class SignedLink(NamedTuple):
    """Path of this server that a file is at, and until when it works (seconds since 1970)."""

    url: str
    expires_at: int


class ContentLinks:
    """Signs links, and knows its own again.

    The secret is drawn at each start and kept nowhere else: links end with the server, and so do those of a key that is
    not among the next one's. None of it follows from a key, so that nobody can try keys on a link.
    """

    def __init__(self, seconds: int, clock: Clock) -> None:
        """Each link works for so long."""
        self._seconds = seconds
        self._clock = clock
        self._secret = secrets.token_bytes(SECRET_BYTES)

    def sign(self, video_id: str, variant: str) -> SignedLink:
        """Sign a link to one file of a video, for somebody who may see it."""
        expires_at = math.ceil(self._clock.wall()) + self._seconds
        signature = self._signature(video_id, variant, expires_at)
        query = urlencode({"variant": variant, "expires": expires_at, "signature": signature})
        return SignedLink(f"/v1/videos/{video_id}/content?{query}", expires_at)

    def seconds_left(self, video_id: str, variant: str, expires_at: int, signature: str) -> int:
        """Return how long a link still works, at least 1. Raises HttpError 403 for one that is over, or not of ours."""
        expected = self._signature(video_id, variant, expires_at)
        if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass")):
            said = "the link is not one that this server has made since it was started; ask for a new one"
            raise HttpError(403, "invalid_link", said)
        left = math.ceil(expires_at - self._clock.wall())
        if left <= 0:
            raise HttpError(403, "invalid_link", "the link is over; ask for a new one")
        return left

    def _signature(self, video_id: str, variant: str, expires_at: int) -> str:
        signed = f"{video_id} {variant} {expires_at}"
        return hmac.digest(self._secret, signed.encode("utf-8", "surrogatepass"), "sha256").hex()
