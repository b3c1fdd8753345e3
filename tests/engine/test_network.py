"""Which interface reaches another machine, and what ranks are told of it. Nothing is sent anywhere."""

from __future__ import annotations

import socket

import pytest

from ringlight.core.errors import InvalidLayout
from ringlight.core.messages import RankPlace
from ringlight.engine.network import address_towards, interface_of, knock, listen_for_nodes
from ringlight.engine.process import rank_environment

TWO_NODES = RankPlace(num_ranks=2, address="127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.8.7", "localhost"])
def test_this_machine_is_reached_through_its_loopback(host: str) -> None:
    assert interface_of(address_towards(host, 29500)) == "lo"


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_addresses_of_both_versions_are_known() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("the loopback has no IPv6 address")
    assert interface_of(address_towards("::1", 29500)) == "lo"


def test_an_address_that_no_interface_has() -> None:
    with pytest.raises(InvalidLayout, match=r"no interface of this machine has 192\.0\.2\.1 .* GLOO_SOCKET_IFNAME"):
        interface_of("192.0.2.1")


def test_nodes_are_heard_on_every_address_until_nobody_listens() -> None:
    with listen_for_nodes(0) as server:
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "127.0.0.2"):
            knock(host, port)
    with pytest.raises(ConnectionRefusedError):
        knock("127.0.0.1", port)


def test_ranks_of_several_nodes_are_told_the_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    told = rank_environment(TWO_NODES)
    assert (told["GLOO_SOCKET_IFNAME"], told["NCCL_SOCKET_IFNAME"]) == ("lo", "=lo")
    assert "NCCL_SOCKET_IFNAME" not in rank_environment(RankPlace())


def test_what_the_user_has_named_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert rank_environment(TWO_NODES)["NCCL_SOCKET_IFNAME"] == "eth7"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth8")
    assert rank_environment(TWO_NODES)["GLOO_SOCKET_IFNAME"] == "eth8"
