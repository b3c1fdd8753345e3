"""The server that a workflow asks, and who is sent the key.

The key is read from the environment of ComfyUI and stands in no workflow, no output and no error. It is sent to the
server that the environment names, and to no other: whoever opens a stranger's workflow gives no key away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ringlight.client import ApiError, Client
from ringlight.client.client import URL

URL_VARIABLE, KEY_VARIABLE = "RINGLIGHT_URL", "RINGLIGHT_API_KEY"


class KeyWithheld(Exception):
    """A server that wants a key, and is not the one that ours is for."""


@contextmanager
def connected(asked_url: str) -> Iterator[Client]:
    """A client of the server at this URL, or where that is empty of the environment's, or of this machine's."""
    own = (os.environ.get(URL_VARIABLE) or URL).rstrip("/")
    url = asked_url.strip().rstrip("/") or own
    key = os.environ.get(KEY_VARIABLE) or None
    with Client(url, key if url == own else None) as client:
        try:
            yield client
        except ApiError as error:
            if error.status != 401 or key is None or url == own:
                raise
            raise KeyWithheld(
                f"{error} (The key in {KEY_VARIABLE} is sent to {own} alone, whatever server a workflow names; start "
                f"ComfyUI with {URL_VARIABLE}={url} to have it sent there.)"
            ) from error
