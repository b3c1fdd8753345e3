"""Entry point of the process, which can still speak where the rest of it cannot even be imported.

Started by the engine as `python -m ringlight.worker.start FD SETUP` (worker.main). Nothing heavy is imported before
the engine can hear that it is missing or broken.
"""

from __future__ import annotations

import sys
import traceback
from multiprocessing.connection import Connection
from types import ModuleType
from typing import NoReturn

from ringlight.core import messages
from ringlight.core.errors import InvalidInstallation, OutOfMemory, RinglightError
from ringlight.core.installation import check_temporary_folder, not_importable


def main() -> None:
    """Run a worker, or report why it cannot be."""
    load(int(sys.argv[1])).main()


def load(engine: int) -> ModuleType:
    """Import the worker's program; if that fails, tell the engine why over this descriptor, and end the process."""
    try:
        check_temporary_folder()
        from ringlight.worker import main  # here, for it imports torch and all else
    except InvalidInstallation as failure:
        refuse(engine, failure)
    except MemoryError:
        refuse(engine, OutOfMemory("there is no memory to import torch"))
    except Exception as error:  # a package that is broken may raise anything
        traceback.print_exc()
        refuse(engine, not_importable(error))
    return main


def refuse(engine: int, failure: RinglightError) -> NoReturn:
    """Tell the engine why this process ends, and end it."""
    with Connection(engine) as connection:
        connection.send_bytes(messages.encode(messages.WorkerFailed(code=failure.code, message=str(failure))))
    sys.exit(1)


if __name__ == "__main__":
    main()
