"""`ringlight` on an installation of which a part may be missing: one line says so, and `ringlight doctor` the rest."""

from __future__ import annotations

import sys

EXIT_INVALID = 3  # as in core.codes, which needs packages itself


def main() -> None:
    """Run a command. Exit code 3 where what all commands need cannot be imported; others are those of cli/main."""
    try:
        from ringlight.cli.main import main as run  # here, because it may fail
    except Exception as error:  # whatever a broken package raises
        sys.exit(explain(error))
    run()


def explain(error: Exception) -> int:
    """Print what is broken, and return the exit code."""
    if sys.argv[1:2] == ["doctor"]:
        from ringlight.cli import diagnosis

        facts, problems = diagnosis.examine()
        print((diagnosis.as_json if "--json" in sys.argv else diagnosis.show)(facts, problems))
    else:
        lines = str(error).splitlines() or [type(error).__name__]
        print(f"ringlight: this installation is broken: {lines[-1]}; see `ringlight doctor`", file=sys.stderr)
    return EXIT_INVALID
