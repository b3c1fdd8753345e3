"""The server that the other programs ask."""

from tests.server.served import served as served
