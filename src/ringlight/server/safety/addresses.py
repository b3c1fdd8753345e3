"""Addresses: which are public, and which hosts an operator allows. Nothing is resolved here."""

from __future__ import annotations

import ipaddress
import re
from typing import TypeAlias

import msgspec

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

DEFAULT_PORTS = {"http": 80, "https": 443}

# Python's own tables do not agree between its versions; what is missing in some stands here.
V4_REFUSED = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "240.0.0.0/4")))
V6_PUBLIC = ipaddress.IPv6Network("2000::/3")  # all else is local, mapped or translated (NAT64), or not given out
V6_REFUSED = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))

NUMERIC_LABEL = re.compile(r"0x[0-9a-f]*|[0-9]+", re.IGNORECASE)


def is_public(address: Address) -> bool:
    """Whether anybody on the internet reaches this address; False for all that carry an IPv4 address inside."""
    if not address.is_global or address.is_multicast:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in V4_REFUSED)
    return address in V6_PUBLIC and not any(address in network for network in V6_REFUSED)


def is_disguised(host: str) -> bool:
    """Whether a host is a number in another form than an IP address has: decimal, octal, hexadecimal, too few parts."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]) is not None
    return "%" in host  # an interface of this machine


class HostRule(msgspec.Struct, frozen=True):
    """Host that an operator allows: `example.com`, `*.example.com` (not itself), `*`, each with `:port` or not."""

    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> HostRule:
        """Parse a rule. Raises ValueError for what is not a host, or no port."""
        match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/@\[\]]+)(?::([0-9]{1,5}))?", text.strip())
        if match is None or (match[2] and not 0 < int(match[2]) < 65536):
            raise ValueError(f"{text!r} is not a host such as example.com, *.example.com or example.com:8443")
        return cls(match[1].strip("[]").rstrip(".").lower(), int(match[2]) if match[2] else None)

    def allows(self, scheme: str, host: str, port: int) -> bool:
        """Return whether a host is allowed. A rule without a port allows the scheme's own."""
        if port != (self.port or DEFAULT_PORTS[scheme]):
            return False
        return self.host in ("*", host) or (self.host.startswith("*.") and host.endswith(self.host[1:]))
