"""Servers side by side, as a section of the page: ratios, whether they are noise, and how alike films are."""

from __future__ import annotations

from collections.abc import Iterator

from ringlight.bench.beside import as_asked, likeness
from ringlight.bench.chance import RULE
from ringlight.bench.result import Result
from ringlight.bench.tables import markdown

RATIOS = ("Column", "Request", "Measure", "First (s)", "This (s)", "Ratio", "By round", "Verdict")
FILMS = ("Column", "Request", "PSNR (dB)", "Worst frame (dB)", "SSIM", "As asked")
HOW = (
    "Each server has its turn in every round, in an order that turns, so that what else a machine does slows all. A "
    "ratio is of the medians of all requests, this over first; by round it is of medians within a round, the least "
    f"and the largest. {RULE} Latency is what a client waits, Total what the worker needs."
)
SAME = (
    "Decoded frames beside those of the first server, same request and seed, first round. PSNR is over all frames and "
    "channels; identical films are so in every pixel."
)


def servers(result: Result) -> Iterator[str]:
    """Yield the section on later servers: seconds and films beside the same of the first."""
    later = {column.name: column for column in result.columns if result.is_later(column)}
    if not later:
        return
    yield "### Servers Side by Side"
    timed = [
        [
            f"`{found.column}`",
            str(found.kind + 1),
            found.measure,
            f"{found.beside_seconds:.3f}",
            f"{found.seconds:.3f}",
            f"{found.ratio:.3f}x",
            f"{found.low:.3f}-{found.high:.3f}x",
            f"**{found.verdict}**",
        ]
        for found in result.ratios
        if found.column in later
    ]
    yield markdown(RATIOS, timed, 3)
    yield HOW
    films = []
    for name in later:
        for kind in range(len(result.titles)):
            own = [found for found in result.agreements if (found.column, found.kind) == (name, kind)]
            seen = [found for found in result.judged if (found.column, found.kind) == (name, kind)]
            films.append([f"`{name}`", str(kind + 1), *likeness(own), as_asked(seen)])
    yield markdown(FILMS, films, 2)
    yield SAME
