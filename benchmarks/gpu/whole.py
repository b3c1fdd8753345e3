"""What a whole generation of fifty steps would take, from the forwards and decodes that were measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpu.report import Row
from gpu.scale import Scale
from gpu.section import Section

STEPS = 50


def add_up(section: Section, scale: Scale, kinds: Sequence[str]) -> Iterator[Row]:
    """Text-to-video with guidance: forwards and decode of each of these kinds as measured, nothing else."""
    for video in scale.videos:
        forward = section.number(f"forward T2V {video}", "seconds")
        for kind in kinds:
            decode = section.number(f"decode {video}, {kind}, chunk", "total_seconds")
            label = f"{video}, {STEPS} steps with guidance, {kind} VAE, from its parts"
            if forward is None or decode is None:
                yield Row(label, "a part of it was not measured", verdict="no result")
                continue
            total = 2 * STEPS * forward + decode
            measured = (
                f"{2 * STEPS} x {forward:.4f} s + decode {decode:.2f} s = {total:.1f} s; decode is {decode / total:.1%}"
            )
            yield Row(label, measured, numbers={"seconds": total})
