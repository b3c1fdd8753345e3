"""The networks at the real model's size, with random weights: rates first, then transformer, VAE and torch.compile."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from gpu import compiled, transformer, vae
from gpu.rates import Rates
from gpu.report import Row, Section
from gpu.scale import Scale

STEPS = 50


def run(section: Section, scale: Scale) -> None:
    """All of it, the most important first: what the section's time does not reach is cut from the end."""
    rates = Rates()
    section.attempt("matrix-product rates", partial(rates.measure, scale))
    transformer.run(section, scale, rates)
    vae.run(section, scale, rates)
    section.attempt("a whole generation, from its parts", partial(_add_up, section, scale))
    compiled.run(section, scale)
    vae.run_search(section, scale, rates)


def _add_up(section: Section, scale: Scale) -> Iterator[Row]:
    """Seconds that a whole text-to-video generation would take: forwards and decode as measured, nothing else."""
    for video in scale.videos:
        forward = _seconds(section, f"forward T2V {video}", "seconds")
        for kind in vae.KINDS[:2]:
            decode = _seconds(section, f"decode {video}, {kind.name}, chunk", "total_seconds")
            label = f"{video}, {STEPS} steps with guidance, {kind.name} VAE, from its parts"
            if forward is None or decode is None:
                yield Row(label, "a part of it was not measured", verdict="no result")
                continue
            total = 2 * STEPS * forward + decode
            measured = (
                f"{2 * STEPS} x {forward:.4f} s + decode {decode:.2f} s = {total:.1f} s; decode is {decode / total:.1%}"
            )
            yield Row(label, measured, numbers={"seconds": total})


def _seconds(section: Section, start_of_name: str, number: str) -> float | None:
    """A number of the first row whose name starts so, if there is one."""
    found = (row.numbers.get(number) for row in section.rows if row.name.startswith(start_of_name))
    return next((value for value in found if value is not None), None)
