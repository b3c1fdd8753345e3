"""The ranks of this machine, for a command that runs on several."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ringlight.cli.progress import JobProgress
from ringlight.cli.signals import handled, interrupt
from ringlight.core.errors import RinglightError
from ringlight.engine.engine import Engine
from ringlight.families.table import recognised

REJOIN_SECONDS = 1.0


logger = logging.getLogger(__name__)


def host_ranks(engine: Engine, quiet: bool, log: Callable[[str], None] | None = None) -> None:
    """Host this node's ranks until node 0 is done, and close their engine. Raises what ended them before."""
    with engine, JobProgress(quiet, log) as progress:
        say_layout(engine, progress)

        def watch() -> None:
            (state,) = engine.replicas
            if state.status == "starting":
                progress.still_loading(state.awaited)
            else:
                progress.show(0, "hosting", "ranks for node 0", is_over=False)

        with handled(interrupt):
            engine.follow(watch)


def keep_hosting(make: Callable[[], Engine]) -> None:
    """Host this node's ranks until node 0 stops; after a lost group join the next one, with a new engine.

    All that it says is logged. Raises what the operator has to mend on this node.
    """
    while True:
        try:
            return host_ranks(make(), quiet=False, log=logger.info)
        except RinglightError as error:
            if error.kind.mender == "operator":
                raise
            logger.error("%s; joining again", error)
            time.sleep(REJOIN_SECONDS)


def say_layout(engine: Engine, progress: JobProgress) -> None:
    """Print the number of ranks and the reason for their layout if there are several, and what the files are."""
    for name, told in recognised(engine.files).items():
        progress.say(f"{name}: {told}")
    if engine.choice.layout.num_ranks > 1:
        progress.say(engine.choice.reason)
