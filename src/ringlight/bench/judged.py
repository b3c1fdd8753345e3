"""Judged: which of what its prompt asks for a video shows, of prompts in the words of the trained demo checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from ringlight.bench.agreement import frames_of
from ringlight.core.demo_world import read_prompt, words
from ringlight.core.errors import OutputError


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """Aspects that a column's video of a kind of request shows.

    `right` says of each aspect that was asked for whether it is seen, `seen` holds what is. Both are empty if the video
    cannot be read, and `problem` says why.
    """

    column: str
    kind: int
    right: dict[str, bool] = {}
    seen: dict[str, str | None] = {}
    problem: str = ""

    @property
    def wrong(self) -> list[str]:
        """Each aspect that is not as asked, with what is seen instead."""
        return [f"{name} {self.seen.get(name) or 'none'}" for name, right in self.right.items() if not right]


def can_judge(prompt: str) -> bool:
    """Whether a prompt asks for a solid in a place in words that the trained demo checkpoint knows, and no others."""
    look = read_prompt(prompt)
    is_whole = None not in (look.colour, look.shape, look.place)
    return is_whole and set(re.findall(r"[^\W\d_]+", prompt.lower())) <= words().keys()


def judge_video(column: str, kind: int, video: Path, prompt: str) -> Judged:
    """Judge a video file by its prompt."""
    import numpy as np  # here and below, because only this needs them

    from ringlight.bench.judge import judge

    try:
        frames = [*frames_of(video)]
        if not frames:
            raise OutputError(f"{video.name} has no frames")
    except OutputError as error:
        return Judged(column=column, kind=kind, problem=str(error))
    verdict = judge(np.stack(frames), prompt)
    seen = {name: getattr(verdict.seen, name) for name in verdict.right}
    return Judged(column=column, kind=kind, right=verdict.right, seen=seen)
