"""Variants beside exact videos, as sections of the page: whether pictures agree, and films show what was asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ringlight.bench.agreement import Agreement
from ringlight.bench.comparison import columns_of
from ringlight.bench.figures import TOTAL, differ, stage_rows
from ringlight.bench.judged import Judged
from ringlight.bench.result import Column, Result
from ringlight.bench.tables import BLANK, LEGEND, mark, markdown

EXACT = ("exact", BLANK, BLANK)
HEAD = ("Column", "Request", "Total (s)", "Speedup", "PSNR (dB)", "Worst frame (dB)", "SSIM", "As asked")
MEASURES = (
    "PSNR and SSIM are to the exact column of the same layout, same prompt and seed, first round, over frames after "
    "their codec, which itself costs some dB of what differs at all. PSNR is over all frames and channels. SSIM is as "
    "Wang et al. (2004) have it, over luma in an 11x11 Gaussian window of 1.5 pixels, the mean of all frames."
)
JUDGED = (
    "As asked: how many of colour, shape, motion and place the judge sees as the prompt says, of prompts in the words "
    "of the trained demo checkpoint. It knows the films of that checkpoint alone (docs/judging.md)."
)
SHARED = (
    "A variant of request fields alone is sent to the server of its exact column, after it or before it, which turns "
    "from round to round. That server remembers prompts, so TextEncoding is that of whoever came first."
)


def variants(result: Result) -> Iterator[str]:
    """Yield the section on variants: what each one changes and what it gains."""
    columns = [column for column in result.columns if not result.is_later(column)]
    found = [column for column in columns if column.variant]
    if not found:
        return
    yield "### Variants"
    yield "\n".join(dict.fromkeys(f"- `{column.variant}`: `{column.says}`" for column in found))
    exact = dict.fromkeys(column.beside for column in found)
    groups = [[each for each in columns if name in (each.name, each.beside)] for name in exact]
    lines = [line for group in groups for line in _lines(result, group)]
    yield markdown(HEAD, lines, 2)
    notes = [MEASURES, LEGEND, *([JUDGED] if result.judged else [])]
    commands = {column.name: column.command for column in result.columns}
    if any(column.command == commands[column.beside] for column in found):
        notes.append(SHARED)
    yield " ".join(notes)


def judged(result: Result) -> Iterator[str]:
    """Yield the section on films: what the judge sees in each one whose prompt it knows the words of."""
    if not result.judged:
        return
    yield "### Films beside Their Prompts"
    requests, lines = result.workload["requests"], list[list[str]]()
    for found in sorted(result.judged, key=lambda found: found.kind):
        if wrong := found.problem or ", ".join(found.wrong):
            prompt = requests[found.kind]["prompt"]
            lines.append([str(found.kind + 1), prompt, f"`{found.column}`", as_asked([found]), wrong])
    whole = len(result.judged) - len(lines)
    rest = "; the others:" if lines else "."
    yield f"{whole} of {len(result.judged)} films show all that their prompts ask for{rest}"
    if lines:
        yield markdown(["Request", "Prompt", "Column", "As asked", "Seen instead"], lines, 5)


def judge_sentences(result: Result) -> Iterator[str]:
    """Yield sentences that compare how well variants and exact videos follow their prompts."""
    for column in result.columns:
        own, exact = result.score(column.name), result.score(column.beside or result.baseline)
        if own is not None and exact is not None and column.name != result.baseline:
            beside = column.beside or result.baseline
            yield (
                f"`{column.name}` shows {own[0]} of {own[1]} things that prompts ask for, `{beside}` {exact[0]} of "
                f"{exact[1]}."
            )


def as_asked(found: Sequence[Judged]) -> str:
    """Number of right aspects in words, such as "5 of 6"."""
    right = [value for each in found for value in each.right.values()]
    return f"{sum(right)} of {len(right)}" if right else BLANK


def _lines(result: Result, group: Sequence[Column]) -> Iterator[list[str]]:
    """Yield the table rows of an exact column and its variants: over all requests, if several, and for each."""
    kinds = range(len(result.titles))
    if len(kinds) > 1:
        for column in group:
            own = [found for found in result.agreements if found.column == column.name]
            verdicts = [found for found in result.judged if found.column == column.name]
            yield [
                f"**`{column.name}`**",
                "all",
                BLANK,
                BLANK,
                *(likeness(own) if column.variant else EXACT),
                as_asked(verdicts),
            ]
    for kind in kinds:
        seconds = _seconds(result, kind)
        for column in group:
            own = [found for found in result.agreements if (found.column, found.kind) == (column.name, kind)]
            verdicts = [found for found in result.judged if (found.column, found.kind) == (column.name, kind)]
            cells = [*seconds[column.name], *(likeness(own) if column.variant else EXACT), as_asked(verdicts)]
            yield [f"`{column.name}`", str(kind + 1), *cells]


def _seconds(result: Result, kind: int) -> dict[str, list[str]]:
    """Total seconds by column, and for a variant its speedup over the exact column."""
    columns = columns_of(result, kind)
    total = next(row for row in stage_rows(columns) if row.name == TOTAL)
    found = {}
    for place, column in enumerate(result.columns):
        value, reference = total.values[place], columns[place].reference
        beside = None if reference is None or not column.variant else differ(value, total.values[reference])
        speedup = BLANK if beside is None or beside.speedup is None else f"{beside.speedup:.2f}x{mark(beside)}"
        found[column.name] = [BLANK if value is None else f"{value.value:.2f}", speedup]
    return found


def likeness(found: Sequence[Agreement]) -> list[str]:
    """PSNR, that of the worst frame, and SSIM: the least of all."""
    if problems := [each.problem for each in found if each.problem]:
        return [problems[0], BLANK, BLANK]
    if not found:
        return [BLANK] * 3
    psnr = [each.psnr_db for each in found if each.psnr_db is not None]
    worst = [each.worst_psnr_db for each in found if each.worst_psnr_db is not None]
    alike = min(each.ssim for each in found if each.ssim is not None)
    decibels = [f"{min(values):.1f}" if values else "identical" for values in (psnr, worst)]
    return [*decibels, f"{alike:.4f}"]
