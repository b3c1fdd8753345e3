"""Examination of a cluster's node by itself.

It runs there as it is sent, so that it tells of another Ringlight too, or of none.
"""

from __future__ import annotations

import platform
import socket
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

KNOCK_SECONDS = 5.0
NOT_INSTALLED = "not installed"


class NodeAnswer(NamedTuple):
    """Answer of a node: what people know it by, what Ray counts there, and its facts, or why it has none."""

    name: str
    counts: Mapping[str, float]
    told: Mapping[str, str]
    fault: str = ""

    @property
    def hosts_ranks(self) -> bool:
        """Whether Ray may place anything there; not on a head that only serves."""
        return any(self.counts.get(kind) for kind in ("CPU", "GPU"))


def examine_node(
    door: tuple[str, int], word: str, packages: tuple[str, ...], checkpoint: tuple[str, str]
) -> dict[str, str]:
    """Examine this node: versions, the token, cards, and whether `door` can be reached from here.

    Digests of a checkpoint, which is a path and a family, are of the whole (checkpoint), and of what is not weights
    (model).

    What cannot be told is left out, and the reason stands under its name with _fault behind it.
    """
    told = {"python": platform.python_version()} | {package: _version(package) for package in packages}
    told |= {"executable": sys.executable, "token": "on" if _wants_token() else "off"}
    questions: dict[str, Callable[[], str]] = {"cards": _cards, "door": lambda: _knock(door, word)}
    if checkpoint[0]:
        questions |= {"checkpoint": lambda: _digest(*checkpoint, True), "model": lambda: _digest(*checkpoint, False)}
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
        return NOT_INSTALLED


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
    """Connect to an address. Raises OSError unless whoever listens there says the word."""
    with socket.create_connection(door, KNOCK_SECONDS) as other:
        other.sendall(word.encode())
        said = b"".join(iter(lambda: other.recv(1024), b"")).decode(errors="replace")
    if said != word:
        raise OSError("somebody else answers there")
    return "open"


def _digest(model_path: str, model_family: str, with_weights: bool) -> str:
    from ringlight.core.config import EngineConfig
    from ringlight.families.digest import digest
    from ringlight.families.table import checkpoint_of

    config = EngineConfig(model_path=model_path, model_family=model_family)
    return digest(checkpoint_of(config), with_weights)
