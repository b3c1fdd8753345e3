#!/usr/bin/env python3
"""Draws docs/images/timelines.svg: two blocks of the transformer on one of two ranks, as the planner plays them.

    scripts/draw_timelines.py            # write it
    scripts/draw_timelines.py --check    # exit with 1 if it is out of date; write nothing

What is drawn is `planner/replay`, which plans are made of, with the seconds of one video on two cards of the catalogue.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ringlight.core.layout import ParallelLayout
from ringlight.core.request import RequestDefaults
from ringlight.families.table import known_model
from ringlight.families.work import Work
from ringlight.planner import catalogue
from ringlight.planner.denoising import block_of
from ringlight.planner.hardware import Hardware
from ringlight.planner.machine import Machine
from ringlight.planner.replay import Block, Program, Rank, ahead, whole

PICTURE = Path(__file__).resolve().parents[1] / "docs/images/timelines.svg"
CARD, LINK, MODEL, NUM_FRAMES = "rtx4090", "pcie4", "Wan2.2-TI2V-5B", 25
NUM_BLOCKS = 2
COLOURS = ("#4c78a8", "#f58518")  # of the first forward, and of the second
SENT = "#72b7b2"
WIDTH, LEFT, TOP, ROW, LANE = 960, 20, 60, 92, 22  # pixels


class Span(NamedTuple):
    """What a lane does from one second to another."""

    lane: int  # 0: computes, 1: on the link
    begin: float
    end: float
    colour: str


class Recorder(Rank):
    """A rank of a replay that keeps what it did, and for which forward."""

    def __init__(self, link: tuple[float, float, float]) -> None:
        super().__init__(link)
        self.spans: list[Span] = []
        self.forward = 0

    def compute(self, seconds: float) -> None:
        self.spans.append(Span(0, self.now, self.now + seconds, COLOURS[self.forward]))
        super().compute(seconds)

    def send(self, num_bytes: float, num_messages: int = 1) -> float:
        begin = max(self._link_free, self.now)
        arrival = super().send(num_bytes, num_messages)
        if num_bytes:
            self.spans.append(Span(1, begin, arrival, SENT))
        return arrival


class Way(NamedTuple):
    """How two ranks share the work of a step."""

    title: str
    layout: ParallelLayout
    num_slices: int = 1
    take_turns: bool = False


WAYS = (
    Way("c2u1r1: a guidance branch a rank; nothing is sent within a forward", ParallelLayout(cfg=2)),
    Way("u1r2: keys and values of the other rank travel under the attention to one's own", ParallelLayout(ring=2)),
    Way("u2r1: tokens for heads before attention, heads for tokens after it", ParallelLayout(ulysses=2)),
    Way("u1r2 in 4 slices: what the next block needs leaves slice by slice", ParallelLayout(ring=2), 4),
    Way("u1r2 in turns: one forward computes while the data of the other travels", ParallelLayout(ring=2), 1, True),
)


def main() -> int:
    """Write the picture, or say that it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 if it is out of date; write nothing")
    drawn = picture()
    if not parser.parse_args().check:
        PICTURE.write_text(drawn, encoding="utf-8")
        return 0
    if PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == drawn:
        return 0
    print(f"{PICTURE.name} is out of date; run scripts/draw_timelines.py", file=sys.stderr)
    return 1


def picture() -> str:
    """The whole picture, as SVG."""
    spec = known_model(MODEL)
    request = RequestDefaults(width=1280, height=704, num_frames=NUM_FRAMES).complete("a prompt", spec)
    work, machine = (
        Work.of(spec, request),
        Machine(hardware=Hardware(card=catalogue.card(CARD), link=catalogue.link(LINK))),
    )
    played = [(way, *play(way, work, machine)) for way in WAYS]
    longest = max(seconds for _, _, seconds in played)
    rows = "\n".join(
        line
        for place, (way, spans, _) in enumerate(played)
        for line in _row(way.title, spans, TOP + place * ROW, longest)
    )
    height = TOP + ROW * len(WAYS)
    head = f"Two blocks of {MODEL}, 1280x704, {NUM_FRAMES} frames, on one of two {CARD} over {LINK}, as planned"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
        f'font-size="13">\n<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n'
        f"{_text(LEFT, 20, head)}\n{_legend()}\n{rows}\n</svg>\n"
    )


def play(way: Way, work: Work, machine: Machine) -> tuple[list[Span], float]:
    """What the first rank does in some blocks, and for how long."""
    link = machine.link
    rank = Recorder((link.bytes_per_second, link.latency_seconds, link.busy_seconds_per_byte))
    block = block_of(work, way.layout, way.num_slices, machine)
    forwards = [_program(way, rank, block) for _ in range(2 // way.layout.cfg)]
    for together in [forwards] if way.take_turns else [[each] for each in forwards]:
        running = list(together)
        while running:
            running = [each for each in running if _goes_on(rank, forwards.index(each), each)]
    return rank.spans, rank.now


def _program(way: Way, rank: Recorder, block: Block) -> Program:
    return ahead(rank, block, NUM_BLOCKS, way.num_slices) if way.num_slices > 1 else whole(rank, block, NUM_BLOCKS)


def _goes_on(rank: Recorder, number: int, program: Program) -> bool:
    rank.forward = number
    return next(program, program) is not program


def _legend() -> str:
    """What the colours mean."""
    named = zip((*COLOURS, SENT), ("computes, first forward", "computes, second forward", "on the link"), strict=True)
    return "\n".join(
        f'<rect x="{LEFT + 200 * place}" y="32" width="12" height="12" fill="{colour}"/>\n'
        f"{_text(LEFT + 200 * place + 18, 43, name)}"
        for place, (colour, name) in enumerate(named)
    )


def _row(title: str, spans: list[Span], top: int, longest: float) -> Iterator[str]:
    """A title, and a lane each for what a rank computes and what it sends."""
    scale = (WIDTH - 2 * LEFT) / longest
    yield _text(LEFT, top + 14, title)
    for span in spans:
        left, right = LEFT + scale * span.begin, LEFT + scale * span.end
        yield (
            f'<rect x="{left:.1f}" y="{top + 22 + span.lane * (LANE + 4)}" width="{right - left:.1f}" height="{LANE}" '
            f'fill="{span.colour}" stroke="#ffffff" stroke-width="0.5"/>'
        )
    computed = sum(span.end - span.begin for span in spans if span.lane == 0)
    end = max(span.end for span in spans if span.lane == 0)
    told = f"{1e3 * end:.1f} ms, of which {1e3 * (end - computed):.1f} wait"
    yield _text(WIDTH - LEFT - 170, top + 14, told)


def _text(left: float, base: int, text: str) -> str:
    return f'<text x="{left:.0f}" y="{base}" fill="#222222">{text}</text>'


if __name__ == "__main__":
    sys.exit(main())
