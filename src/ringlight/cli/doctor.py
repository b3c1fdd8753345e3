"""`ringlight doctor`: what a bug report needs, and what of this installation is broken."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ringlight.cli import diagnosis


def doctor(
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a bug report needs: versions, device, memory, codecs; then what is broken, and how to mend it.

    Exit code 3 if anything is.
    """
    facts, problems = diagnosis.examine()
    print((diagnosis.as_json if json_ else diagnosis.show)(facts, problems))
    if problems:
        sys.exit(3)
