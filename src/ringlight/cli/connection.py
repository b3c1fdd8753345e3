"""Connection of `ringlight jobs` to a server: the flags that say where it is, and its refusals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ringlight.core.errors import InvalidSetting, RinglightError

if TYPE_CHECKING:
    from ringlight.client import Client

DEFAULT_URL = "http://127.0.0.1:8898"
MAX_RETRIES = 2  # a second and a half; whoever sits before a terminal would rather know
KEY_REMEDY = "; --api-key says it here, or RINGLIGHT_API_KEY in the environment"

Url = Annotated[str, typer.Option(help="Where the server is.", envvar="RINGLIGHT_URL")]
ApiKey = Annotated[
    str,
    typer.Option(help="Key to the server; better in the environment.", envvar="RINGLIGHT_API_KEY", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Refused(InvalidSetting):
    """Refusal by the server, with its message and code, raised as a mistake of this command's user."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class Failed(RinglightError):
    """A video that failed, with the code of its cause."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@contextmanager
def connected(url: str, api_key: str) -> Iterator[Client]:
    """A client. What the server refuses becomes a mistake of the user's, what it fails at stays its own."""
    from ringlight.client import ApiError, Client  # here, because it takes long and only these commands need it

    with Client(url, api_key or None, max_retries=MAX_RETRIES) as client:
        try:
            yield client
        except ApiError as error:
            if error.status >= 500:
                raise
            param = f"{error.param}: " if error.param and not str(error).startswith(error.param) else ""
            remedy = KEY_REMEDY if error.status == 401 else ""
            raise Refused(error.code, f"{param}{error}{remedy}") from None
