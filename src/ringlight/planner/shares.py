"""Shares: what each client has used of the replicas lately, and who has used more than its share."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection

WINDOW_SECONDS = 600.0
OVER = 1.25  # times its share: from there on it is over


class Shares:
    """Seconds of replicas that each client used over the last WINDOW_SECONDS.

    The share of a client is what the replicas give in that time, in equal parts for those that have work now. A client
    is over its share from the moment that it has used OVER times as much until it has used no more than its share:
    between the two it stays what it was, so that the turn does not go back and forth. A client that has work alone is
    never over. The share is of what there is, not of what others used: where there is enough for all, nobody
    is over.
    """

    def __init__(self, num_replicas: int = 1) -> None:
        self.count(num_replicas)
        self._uses: deque[tuple[float, str, float]] = deque()  # (when, client, seconds), oldest first
        self._used: defaultdict[str, float] = defaultdict(float)
        self._over: set[str] = set()

    def count(self, num_replicas: int) -> None:
        """Set the number of replicas, which clients' use is compared with."""
        self._given_seconds = WINDOW_SECONDS * num_replicas

    def add(self, client: str, seconds: float, now: float) -> None:
        """Count seconds of one replica that a client has used until now."""
        self._uses.append((now, client, seconds))
        self._used[client] += seconds
        self._forget(now)

    def over(self, clients: Collection[str], now: float) -> set[str]:
        """Clients over their share, among those that have a running or waiting job."""
        self._forget(now)
        present = set(clients)
        share = self._given_seconds / max(1, len(present))
        self._over = {
            client
            for client in present
            if len(present) > 1 and self._used.get(client, 0.0) > share * (1.0 if client in self._over else OVER)
        }
        return set(self._over)

    def used(self, client: str) -> float:
        """Seconds of replicas that a client has used lately."""
        return self._used.get(client, 0.0)

    def _forget(self, now: float) -> None:
        while self._uses and self._uses[0][0] <= now - WINDOW_SECONDS:
            _, client, seconds = self._uses.popleft()
            self._used[client] -= seconds
            if self._used[client] < 1e-6:  # of rounding
                del self._used[client]
