"""Which network interface of this machine reaches another one."""

from __future__ import annotations

import fcntl
import socket
import struct
from pathlib import Path

from ringlight.core.errors import InvalidLayout

SIOCGIFADDR = 0x8915  # netdevice(7): the IPv4 address of an interface
IPV6_ADDRESSES = Path("/proc/net/if_inet6")  # address in hexadecimal ... name, a line each


def interface_towards(host: str, port: int) -> str:
    """The name of the interface through which packets to `host` leave, "lo" where it is this machine's loopback.

    Nothing is sent: to connect a UDP socket only looks up the route. Raises InvalidLayout where there is none.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            ours = probe.getsockname()[0]
    except OSError as error:
        raise InvalidLayout(f"dist-init-addr {host}:{port} cannot be reached: {error.strerror or error}") from None
    if ours.startswith("127."):  # all of that block is the loopback's, which has one of its addresses
        return "lo"
    for _, name in socket.if_nameindex():
        if ours in _addresses(name, family):
            return name
    raise InvalidLayout(
        f"no interface of this machine has {ours} as its first address; name the one to use in GLOO_SOCKET_IFNAME"
    )


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
