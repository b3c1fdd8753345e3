"""Fixtures that several tests of the command line share."""

from tests.cli.dry_runs import checkpoint as checkpoint
from tests.cli.dry_runs import dry as dry
