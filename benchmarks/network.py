"""What two ranks are joined by: network namespaces and a link of a chosen rate, or loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Network(Protocol):
    """What two ranks are joined by."""

    name: str

    def place(self, rank: int) -> tuple[list[str], str]:
        """(what a rank's command begins with, the interface that it talks by)."""
        ...

    def limit(self, bits_per_second: float | None) -> None:
        """Limit both directions; None: no limit."""
        ...


class Loopback:
    """No namespaces, and a rate that nothing limits."""

    name = "loopback, not limited: no network namespaces here"

    def place(self, rank: int) -> tuple[list[str], str]:
        return [], "lo"

    def limit(self, bits_per_second: float | None) -> None: ...


class Namespaces:
    """Two namespaces, a veth pair between them, and its rate."""

    name = "two network namespaces, veth, tc tbf"

    def __init__(self) -> None:
        mark = f"{os.getpid() % 100000}"
        self.spaces = [f"ringlight-{mark}-{side}" for side in "ab"]
        self.ends = [f"rl{mark}{side}" for side in "ab"]

    def make(self) -> None:
        for space in self.spaces:
            run("ip", "netns", "add", space)
        run("ip", "link", "add", self.ends[0], "type", "veth", "peer", "name", self.ends[1])
        for number, (space, end) in enumerate(zip(self.spaces, self.ends, strict=True)):
            run("ip", "link", "set", end, "netns", space)
            self.inside(space, "ip", "addr", "add", f"10.77.0.{number + 1}/24", "dev", end)
            self.inside(space, "ip", "link", "set", end, "up")
            self.inside(space, "ip", "link", "set", "lo", "up")

    def place(self, rank: int) -> tuple[list[str], str]:
        return ["ip", "netns", "exec", self.spaces[rank]], self.ends[rank]

    def limit(self, bits_per_second: float | None) -> None:
        for space, end in zip(self.spaces, self.ends, strict=True):
            subprocess.run(
                ["ip", "netns", "exec", space, "tc", "qdisc", "del", "dev", end, "root"], stderr=subprocess.DEVNULL
            )
            if bits_per_second is not None:
                burst = max(65536, int(bits_per_second / 8 / 250))
                rate = ("rate", f"{int(bits_per_second)}bit", "burst", str(burst), "latency", "100ms")
                self.inside(space, "tc", "qdisc", "add", "dev", end, "root", "tbf", *rate)

    def remove(self) -> None:
        for space in self.spaces:
            subprocess.run(["ip", "netns", "del", space], stderr=subprocess.DEVNULL)

    def inside(self, space: str, *command: str) -> None:
        run("ip", "netns", "exec", space, *command)


def run(*command: str) -> None:
    subprocess.run(command, check=True)


@contextmanager
def network(is_self_test: bool) -> Iterator[Network]:
    """Namespaces; the self-test does without where they cannot be made. Exits where nothing else will do."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc"))):
        if not is_self_test:
            sys.exit(
                "a slow link needs root, ip and tc (Debian: apt-get install iproute2) to make and slow down a link"
            )
        yield Loopback()
        return
    spaces = Namespaces()
    try:
        made: Network = spaces
        try:
            spaces.make()
            spaces.limit(1e9)
        except subprocess.CalledProcessError:
            if not is_self_test:
                raise
            made = Loopback()  # root in a container, which may not
        yield made
    finally:
        spaces.remove()
