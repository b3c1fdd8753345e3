"""The summary: sentences that are computed from the numbers, as the published page has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ringlight.bench.agreement import Agreement
from ringlight.bench.figures import OTHER, TOTAL, Measured, Row, differ, memory_rows, stage_rows, wait_rows
from ringlight.bench.tables import delta_text

MAIN_SHARE = 0.1  # of all that is gained, and of what the total differs by, from which a stage is named
NOTICEABLE = 0.05  # of the baseline, from which memory is said to change,
NOTICEABLE_GB = 0.1  # and this at least: a small model's process differs by as much from one start to the next
MAX_NAMED = 3


def sentences(columns: Sequence[Measured], agreements: Sequence[Agreement]) -> Iterator[str]:
    """Yield sentences that compare each column with its reference."""
    stages, memory, waits = stage_rows(columns), memory_rows(columns), wait_rows(columns)
    others = [place for place, column in enumerate(columns) if column.reference is not None]
    for place in others:
        of = f" of `{columns[place].label}`" if len(others) > 1 else ""
        yield from _latency(columns, stages, place, of)
        yield from _memory(columns, memory, place)
        yield from _waits(columns, stages, waits, place)
        yield from _agreement(columns[place], columns, agreements)
    if not others:
        total = stages[-1].values[0] if columns else None
        if total is not None:
            yield f"One video takes `{total.value:.2f}s` (median of {total.spread.n})."


def _latency(columns: Sequence[Measured], rows: Sequence[Row], place: int, of: str) -> Iterator[str]:
    reference = columns[place].reference
    assert reference is not None, "only columns that are compared come here"
    total = next(row for row in rows if row.name == TOTAL)
    value, base = total.values[place], total.values[reference]
    found = differ(value, base)
    if value is None or base is None or found is None or found.speedup is None:
        yield f"End-to-end latency{of} cannot be compared: a server made no report."
        return
    numbers = f"from `{base.value:.2f}s` to `{value.value:.2f}s` (`{found.speedup:.2f}x`)"
    if found.is_noise:
        yield f"End-to-end latency{of} goes {numbers}, no more than rounds differ by."
        return
    few = ", in too few rounds to tell from chance" if found.is_noise is None else ""
    yield f"End-to-end latency{of} {'improves' if found.delta < 0 else 'worsens'} {numbers}{few}."
    changes = _changes(rows, place, reference)
    for what, sign in (("gains", -1), ("losses", 1)):
        whole = sum(abs(delta) for _, delta, _ in changes if delta * sign > 0)
        least = MAIN_SHARE * max(whole, abs(found.delta))
        main = [(name, speedup) for name, delta, speedup in changes if delta * sign > least]
        is_main = (found.delta < 0) == (sign < 0)
        if main and (is_main or whole > MAIN_SHARE * base.value):
            named = [f"`{name}` (`{speedup:.2f}x`)" for name, speedup in main[:MAX_NAMED]]
            yield f"{f'Main {what}' if is_main else what.capitalize()} come from {_listed(named)}."


def _changes(rows: Sequence[Row], place: int, reference: int) -> list[tuple[str, float, float]]:
    """(stage, change in seconds, speedup) of all changes that are more than noise, the largest first."""
    found = []
    for row in rows:
        difference = differ(row.values[place], row.values[reference])
        if row.name in (OTHER, TOTAL) or difference is None or difference.is_noise:
            continue
        if difference.speedup is not None:
            found.append((row.name, difference.delta, difference.speedup))
    return sorted(found, key=lambda change: -abs(change[1]))


def _memory(columns: Sequence[Measured], rows: Sequence[Row], place: int) -> Iterator[str]:
    reference = columns[place].reference
    assert reference is not None, "only columns that are compared come here"
    found = [(row, differ(row.values[place], row.values[reference])) for row in rows]
    absolute = [
        (row, difference)
        for row, difference in found
        if difference is not None and row.name in ("Peak GPU Memory", "Peak Allocated", "Peak Resident Memory")
    ]
    if absolute:
        row, first = absolute[0]
        base = row.values[reference]
        least = NOTICEABLE_GB if base is None else max(NOTICEABLE_GB, NOTICEABLE * base.value)
        verb = "drops noticeably" if first.delta < 0 else "rises noticeably"
        how = verb if abs(first.delta) > least and not first.is_noise else "is about the same"
        named = ", ".join(f"`{row.name} {delta_text(difference.delta, False)}GB`" for row, difference in absolute)
        yield f"Absolute memory usage {how} on `{columns[place].label}` ({named})."
    for row, difference in found:
        if row.name == "Overhead Ratio" and difference is not None:
            verb = "rises" if difference.delta > 0 else "falls"
            yield f"Overhead ratio {verb} (`{delta_text(difference.delta, True)}`): the allocator's slack."


def _waits(columns: Sequence[Measured], stages: Sequence[Row], waits: Sequence[Row], place: int) -> Iterator[str]:
    total = stages[-1].values[place]
    values = {row.name: value for row in waits if (value := row.values[place]) is not None}
    whole = values.pop("Link: all", None)
    if whole is None or total is None or not values:
        return
    name, most = max(values.items(), key=lambda item: item[1].value)
    kind = name.removeprefix("Link: ")
    yield (
        f"A rank of `{columns[place].label}` waited up to `{whole.value:.2f}s` for the others "
        f"({whole.value / total.value:.0%} of the total), most of it for `{kind}` (`{most.value:.2f}s`)."
    )


def _agreement(column: Measured, columns: Sequence[Measured], agreements: Sequence[Agreement]) -> Iterator[str]:
    own = [agreement for agreement in agreements if agreement.column == column.label]
    if not own:
        return
    label, reference = column.label, columns[column.reference or 0]
    is_named = column.variant or reference.reference is not None
    beside = f"`{reference.label}`" if is_named else "the baseline"
    broken = [agreement for agreement in own if agreement.problem]
    if broken:
        yield f"Videos of `{label}` could not be compared: {broken[0].problem}."
    elif all(agreement.psnr_db is None for agreement in own):
        yield f"Videos of `{label}` and of {beside} are the same in every pixel."
    else:
        worst = max(agreement.max_difference for agreement in own)
        psnr = min(agreement.psnr_db for agreement in own if agreement.psnr_db is not None)
        ssim = min((agreement.ssim for agreement in own if agreement.ssim is not None), default=None)
        alike = "" if ssim is None else f", SSIM {ssim:.4f}"
        yield (
            f"Videos of `{label}` and of {beside} differ by at most {worst} of 255 in any channel "
            f"(PSNR {psnr:.1f} dB{alike}), after their codec."
        )


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
