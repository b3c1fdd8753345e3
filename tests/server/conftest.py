"""Fixtures that the tests of the server share."""

from tests.server.served import finished as finished
from tests.server.served import long as long
from tests.server.served import made as made
from tests.server.served import served as served
