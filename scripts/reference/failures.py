"""Errors by their codes, and the exceptions and exit codes that go with them."""

from __future__ import annotations

from collections.abc import Iterator

from reference.markdown import table
from ringlight.core.codes import CODES, EXIT_INTERRUPTED, EXIT_INVALID, EXIT_USAGE, EXIT_WORKER, ErrorKind
from ringlight.core.errors import RinglightError

MENDERS = {"asker": "who asks", "operator": "operator", "time": "time"}
EXITS = {
    0: "All is done.",
    1: "What was measured is outside of its bounds: a gate of `compare` or `bench`, or the band of a prediction.",
    EXIT_USAGE: "The command line is wrong: an option that is not known, or a value of the wrong kind.",
    EXIT_INVALID: "What was asked cannot be made, or a server refuses it, or the operator must mend something first.",
    EXIT_WORKER: "It was tried and failed, here or at the server, or no server answers.",
    EXIT_INTERRUPTED: "Interrupted, or cancelled.",
}


def raised() -> dict[str, type[RinglightError]]:
    """The exceptions of core.errors, by the codes that they bring into CODES."""
    return {kind.code: kind for kind in _tree() if kind.code in CODES and kind.__module__ == RinglightError.__module__}


def errors() -> str:
    """A line for every code."""
    rows = [(f"[`{code}`](troubleshooting.md#{code})", *_row(code, kind)) for code, kind in sorted(CODES.items())]
    return table(("code", "HTTP", "exit", "who mends it", "what to do"), rows)


def exceptions() -> str:
    """A line for every exception that is raised on purpose."""
    rows = [
        (f"`{kind.__name__}`", f"[`{code}`](troubleshooting.md#{code})", CODES[code].meaning)
        for code, kind in raised().items()
    ]
    return table(("exception", "code", "meaning"), rows)


def exits() -> str:
    """A line for every exit code, with the errors that end a command with it."""
    rows = []
    for exit_code, meaning in EXITS.items():
        codes = [code for code in sorted(raised()) if CODES[code].exit_code == exit_code]
        rows.append((f"{exit_code}", meaning, ", ".join(f"`{code}`" for code in codes)))
    return table(("exit code", "meaning", "errors"), rows)


def _row(code: str, kind: ErrorKind) -> tuple[str, ...]:
    exit_code = f"{kind.exit_code}" if code in raised() else ""
    return f"{kind.status}", exit_code, MENDERS[kind.mender], kind.remedy


def _tree(kind: type[RinglightError] = RinglightError) -> Iterator[type[RinglightError]]:
    """An exception and all below it, those that share its code first."""
    for below in kind.__subclasses__():
        yield from _tree(below)
    yield kind
