"""`ringlight compare`: saved results side by side, with gates for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ringlight.core.errors import InvalidSetting

EXIT_GATE = 1


def compare(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Results of `ringlight bench` or reports of `ringlight generate --report`; the first is the baseline.",
            show_default=False,
        ),
    ],
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            help='Fail where this is true, such as "Total > 1.05x", "PSNR < 40dB" or "Peak Allocated > 20GB"; '
            "may be repeated.",
            metavar="GATE",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare other workloads, models or dtypes too.")] = False,
) -> None:
    """Print the page's tables of saved results, any number of columns, with speedups and differences.

    Later files are held to the first one: each layout to the same layout there, else to its baseline. Differences that
    may be noise are marked. Results of other workloads, models or dtypes are refused; --force says so on top instead.

    A gate is a row's name, an operator (> >= < <=) and a value: 1.05x is value / reference, 5% a change, 63.5 or 20GB
    the value itself, +2pp a difference of a ratio. It is about every column of the later files, and with one file about
    that file's other columns than its baseline. PSNR, Worst PSNR (30dB) and SSIM are of the videos that lie beside
    results, to that of the column that one is held to: a later file's to the first's, a variant's to what is exact.
    Judge is the share of what prompts ask for that films show.

    Exit codes: 0, 1 a gate failed, 2 usage, 3 results that cannot be read or compared, or a gate that means nothing:
    also one on videos that are not there, or are of other requests.
    """
    from ringlight.bench.comparison import compare as compare_results  # here, because only this command needs it
    from ringlight.bench.gates import Gate, in_lines

    gates = [Gate.parse(text) for text in fail_if or ()]
    if len(results) != len(set(results)):
        raise InvalidSetting("the same file is named twice")
    comparison = compare_results(results, force)
    verdicts = comparison.verdicts(gates)
    print(comparison.to_markdown())
    if verdicts:
        print("\n" + in_lines(verdicts))
    if any(verdict.has_failed for verdict in verdicts):
        raise typer.Exit(EXIT_GATE)
