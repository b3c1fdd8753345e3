"""The server that the examples of the pages talk to."""

from tests.server.served import served as served
