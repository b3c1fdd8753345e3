"""What `ringlight doctor` asks of a node: run there as it is sent, so that it also tells of one with another Ringlight,
or with none."""

from __future__ import annotations

import platform
import socket
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

KNOCK_SECONDS = 5.0


def examine_node(door: tuple[str, int], word: str, packages: tuple[str, ...], model_path: str) -> dict[str, str]:
    """Versions, the token, cards, whether `door` can be reached from here, and a checkpoint's digest.

    What cannot be told is left out, and the reason stands under its name with _fault behind it.
    """
    told = {"python": platform.python_version()} | {package: _version(package) for package in packages}
    told |= {"executable": sys.executable, "token": "on" if _wants_token() else "off"}
    questions: dict[str, Callable[[], str]] = {"cards": _cards, "door": lambda: _knock(door, word)}
    if model_path:
        questions["checkpoint"] = lambda: _digest(model_path)
    for name, question in questions.items():
        try:
            told[name] = question()
        except Exception as error:  # whatever an installation raises that is broken
            told[f"{name}_fault"] = str(error) or type(error).__name__
    return told


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _wants_token() -> bool:
    """Whether Ray lets in only who knows its token."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return bool(is_token_auth_enabled())


def _cards() -> str:
    """The names of all cards, with commas between them."""
    from ringlight.engine.driver import find_cards

    if (found := find_cards()) is None:
        raise RuntimeError("there are GPUs, and NVIDIA's driver cannot describe them")
    return ", ".join(card.name for card in found)


def _knock(door: tuple[str, int], word: str) -> str:
    """Raises OSError unless whoever listens there says the word."""
    with socket.create_connection(door, KNOCK_SECONDS) as other:
        other.sendall(word.encode())
        said = b"".join(iter(lambda: other.recv(1024), b"")).decode(errors="replace")
    if said != word:
        raise OSError("somebody else answers there")
    return "open"


def _digest(model_path: str) -> str:
    from ringlight.core.config import EngineConfig
    from ringlight.families.digest import digest
    from ringlight.families.table import checkpoint_of

    return digest(checkpoint_of(EngineConfig(model_path=model_path)), with_weights=True)
