"""Which interface reaches another machine, and what ranks are told of it. Nothing is sent anywhere."""

from __future__ import annotations

import socket

import pytest

from ringlight.core.config import NodesConfig
from ringlight.core.errors import InvalidLayout
from ringlight.engine.network import interface_towards
from ringlight.engine.process import rank_environment

TWO_NODES = NodesConfig(num_nodes=2, init_address="127.0.0.1:29500")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.8.7", "localhost"])
def test_this_machine_is_reached_through_its_loopback(host: str) -> None:
    assert interface_towards(host, 29500) == "lo"


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_addresses_of_both_versions_are_known() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("the loopback has no IPv6 address")
    assert interface_towards("::1", 29500) == "lo"


def test_a_name_that_nobody_has_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", find_nothing)  # no test asks a name server
    with pytest.raises(InvalidLayout, match="dist-init-addr nowhere:29500 cannot be reached: Name or service"):
        interface_towards("nowhere", 29500)


def test_ranks_of_several_nodes_are_told_the_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    told = rank_environment(TWO_NODES)
    assert (told["GLOO_SOCKET_IFNAME"], told["NCCL_SOCKET_IFNAME"]) == ("lo", "=lo")
    assert "NCCL_SOCKET_IFNAME" not in rank_environment(NodesConfig())


def test_what_the_user_has_named_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert rank_environment(TWO_NODES)["NCCL_SOCKET_IFNAME"] == "eth7"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth8")
    assert rank_environment(TWO_NODES)["GLOO_SOCKET_IFNAME"] == "eth8"
