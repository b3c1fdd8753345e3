"""The door: where ranks on other machines come to their engine, each with a proof that it was sent for.

Rank and engine share a token, which the rank was given through Ray. Neither says it: each answers what the other has
made up for this one time, with HMAC-SHA256. Nothing that comes in before is looked at but for its bytes.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import selectors
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import msgspec

from ringlight.core.errors import WorkerError
from ringlight.engine.network import keep_watch

TOKEN_BYTES = NONCE_BYTES = DIGEST_BYTES = 32
RANK_BYTES = 4
CLAIM_BYTES = RANK_BYTES + NONCE_BYTES + DIGEST_BYTES
PATIENCE_SECONDS = 5.0  # for who has come and says nothing
LOOK_SECONDS = 0.25
MOST_AT_ONCE = 64  # who have come and said nothing yet


class Address(msgspec.Struct, frozen=True):
    """Address and token of a door."""

    host: str
    port: int
    token: bytes


class _Comer:
    """Connection that has not proved itself yet, and the bytes that it has sent."""

    def __init__(self) -> None:
        self.nonce = secrets.token_bytes(NONCE_BYTES)
        self.said = b""
        self.deadline = time.monotonic() + PATIENCE_SECONDS


class RankDoor:
    """A socket that listens at an address of this machine until it is closed. `num_refused` counts strangers."""

    def __init__(self, host: str, num_ranks: int, watchdog_seconds: float) -> None:
        """Listen at an address. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = socket.create_server((host, 0), family=family, backlog=num_ranks + MOST_AT_ONCE)
        self._server.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._num_ranks = num_ranks
        self._watchdog_seconds = watchdog_seconds
        self._comers: dict[socket.socket, _Comer] = {}
        self._admitted: dict[int, Connection] = {}
        self.num_refused = 0
        self.address = Address(host, self._server.getsockname()[1], secrets.token_bytes(TOKEN_BYTES))

    def admit(self, look: Callable[[], None]) -> dict[int, Connection]:
        """Wait for the connections of all ranks. `look` is called now and then, and may raise."""
        while len(self._admitted) < self._num_ranks:
            for key, _ in self._selector.select(LOOK_SECONDS):
                if key.fileobj is self._server:
                    self._greet()
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._hear(key.fileobj)
            now = time.monotonic()
            for comer in [each for each, said in self._comers.items() if now > said.deadline]:
                self._refuse(comer)
            look()
        admitted, self._admitted = self._admitted, {}
        return admitted

    def has_admitted(self, rank: int) -> bool:
        """Whether this rank has come."""
        return rank in self._admitted

    def close(self) -> None:
        """Stop listening, and forget connections that nobody has fetched."""
        self._selector.close()
        for comer in (self._server, *self._comers):
            comer.close()
        for connection in self._admitted.values():
            connection.close()
        self._comers.clear()
        self._admitted.clear()

    def _greet(self) -> None:
        with contextlib.suppress(OSError):  # he has gone again
            comer, _ = self._server.accept()
            comer.setblocking(False)
            if len(self._comers) >= MOST_AT_ONCE:
                self.num_refused += 1
                return comer.close()
            self._comers[comer] = _Comer()
            self._selector.register(comer, selectors.EVENT_READ)
            comer.sendall(self._comers[comer].nonce)

    def _hear(self, comer: socket.socket) -> None:
        known = self._comers[comer]
        try:
            said = comer.recv(CLAIM_BYTES - len(known.said))
        except OSError:
            said = b""
        known.said += said
        if not said:
            return self._refuse(comer)
        if len(known.said) < CLAIM_BYTES:
            return
        token = self.address.token
        claim, digest = known.said[:-DIGEST_BYTES], known.said[-DIGEST_BYTES:]
        rank = int.from_bytes(claim[:RANK_BYTES])
        is_ours = hmac.compare_digest(digest, _proof(token, known.nonce, claim))
        if not is_ours or rank >= self._num_ranks or rank in self._admitted:
            return self._refuse(comer)
        self._selector.unregister(comer)
        del self._comers[comer]
        comer.setblocking(True)
        keep_watch(comer, self._watchdog_seconds)
        comer.sendall(_proof(token, claim, known.nonce))
        self._admitted[rank] = Connection(comer.detach())

    def _refuse(self, comer: socket.socket) -> None:
        self._selector.unregister(comer)
        del self._comers[comer]
        comer.close()
        self.num_refused += 1


def enter(door: Address, rank: int, watchdog_seconds: float) -> Connection:
    """Connect a rank through a door. Raises WorkerError if nobody opens."""
    try:
        ours = socket.create_connection((door.host, door.port), PATIENCE_SECONDS)
        with contextlib.ExitStack() as opened:
            opened.enter_context(ours)
            nonce = _read(ours, NONCE_BYTES)
            claim = rank.to_bytes(RANK_BYTES) + secrets.token_bytes(NONCE_BYTES)
            ours.sendall(claim + _proof(door.token, nonce, claim))
            if not hmac.compare_digest(_read(ours, DIGEST_BYTES), _proof(door.token, claim, nonce)):
                raise OSError("somebody else answers there")
            ours.settimeout(None)
            keep_watch(ours, watchdog_seconds)
            opened.pop_all()
    except OSError as error:
        reason = error.strerror or str(error)
        raise WorkerError(f"rank {rank} cannot reach its engine at {door.host}:{door.port}: {reason}") from None
    return Connection(ours.detach())


def _proof(token: bytes, asked: bytes, said: bytes) -> bytes:
    return hmac.digest(token, asked + said, "sha256")


def _read(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        if not (more := connection.recv(count - len(found))):
            raise OSError("the connection was closed")
        found += more
    return found
