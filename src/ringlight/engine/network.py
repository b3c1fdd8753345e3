"""Network: by which address and interface this machine reaches another one, and whether somebody answers there."""

from __future__ import annotations

import fcntl
import socket
import struct
from pathlib import Path

from ringlight.core.errors import InvalidLayout

SIOCGIFADDR = 0x8915  # netdevice(7): the IPv4 address of an interface
IPV6_ADDRESSES = Path("/proc/net/if_inet6")  # address in hexadecimal ... name, a line each
KNOCK_SECONDS = 5.0
PROBES = 3  # unanswered, and a machine is gone


def address_towards(host: str, port: int) -> str:
    """Address of this machine as `host` sees it.

    Nothing is sent: to connect a UDP socket only looks up the route. Raises OSError where there is none, or where
    nobody knows the name.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str:
    """The name of the interface that has this address. Raises InvalidLayout where none has it."""
    if address.startswith("127."):  # all of that block is the loopback's, which has one of its addresses
        return "lo"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _, name in socket.if_nameindex():
        if address in _addresses(name, family):
            return name
    raise InvalidLayout(
        f"no interface of this machine has {address} as its first address; name the one to use in GLOO_SOCKET_IFNAME"
    )


def knock(host: str, port: int) -> None:
    """Raise OSError unless somebody listens there."""
    socket.create_connection((host, port), KNOCK_SECONDS).close()


def keep_watch(connection: socket.socket, watchdog_seconds: float) -> None:
    """End a connection between machines within about the watchdog's time if the other one is gone silently.

    It counts as gone if it is silent, or does not take what it is sent. Small messages leave at once.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    every = max(1, round(watchdog_seconds / (PROBES + 1)))
    for option, value in (
        (socket.TCP_KEEPIDLE, every),
        (socket.TCP_KEEPINTVL, every),
        (socket.TCP_KEEPCNT, PROBES),
        (socket.TCP_USER_TIMEOUT, round(1000 * watchdog_seconds)),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def listen_for_nodes(port: int) -> socket.socket:
    """A socket that takes connections from other machines, over both versions of the protocol. Raises OSError."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _addresses(interface: str, family: int) -> list[str]:
    """The addresses of an interface, of one family."""
    if family == socket.AF_INET6:
        lines = [line.split() for line in IPV6_ADDRESSES.read_text().splitlines()]
        return [socket.inet_ntop(family, bytes.fromhex(address)) for address, *_, name in lines if name == interface]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            found = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", interface.encode()))
        except OSError:  # it has none
            return []
    return [socket.inet_ntoa(found[20:24])]
