"""How often a checkpoint shows what prompts ask for: `python -m training.score CHECKPOINT`, a table in Markdown.

Scenes are new ones. `held out` are combinations of colour, solid and place that are not trained in any motion; `other
words` are said with synonyms and in the second way. `drawn` are real clips through the VAE: what the judge itself, or
the decoder, gets wrong.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ringlight.bench.judge import ASPECTS, Judgement, judge
from ringlight.core.demo_world import SYNONYMS
from training.drawing import Frames, Size, draw
from training.sampling import Film, Sampling
from training.world import Scene, caption, draw_scene

Made = tuple[str, Frames, Judgement]  # prompt, film, and what the judge says

AT_ONCE = 10  # films in one pass
COLUMNS = (0, 4, 8, 12, 16)  # frames of a sheet


WHOLE = Size()


@dataclass(frozen=True)
class Trial:
    """One line of the table: which scenes, how they are said, and what is given."""

    name: str
    new: bool = False
    other_words: bool = False
    first_frame: bool = False
    size: Size = WHOLE


TRIALS = [
    Trial("text to video"),
    Trial("image to video", first_frame=True),
    Trial("text to video, held out", new=True),
    Trial("image to video, held out", new=True, first_frame=True),
    Trial("text to video, other words", other_words=True),
    Trial("still", size=replace(WHOLE, frames=1)),
    Trial("still, held out", new=True, size=replace(WHOLE, frames=1)),
    Trial("text to video, 9 frames", size=replace(WHOLE, frames=9)),
    Trial("text to video, 192x128", size=Size(192, 128)),
]


def said(scene: Scene, trial: Trial, rng: np.random.Generator) -> str:
    """The prompt of a scene; in other words each word is one of those that mean the same."""
    if not trial.other_words:
        return caption(scene)
    words = caption(scene, rng).split(" ")
    return " ".join(str(rng.choice([word, *SYNONYMS.get(word, ())])) for word in words)


def run_trial(
    trial: Trial, count: int, seed: int, make: Callable[..., list[Frames]]
) -> list[tuple[str, Frames, Judgement]]:
    """Prompt, film and verdict of each scene."""
    rng = np.random.default_rng((seed, TRIALS.index(trial)))
    scenes = [draw_scene(rng, new=trial.new) for _ in range(count)]
    prompts = [said(scene, trial, rng) for scene in scenes]
    films = []
    for begin in range(0, count, AT_ONCE):
        part = slice(begin, begin + AT_ONCE)
        first = [draw(scene, trial.size, range(1)) for scene in scenes[part]] if trial.first_frame else None
        films += make(prompts[part], trial.size, Sampling(seed=seed + begin), first)
    verdicts = [judge(film, scene.look) for film, scene in zip(films, scenes, strict=True)]
    return list(zip(prompts, films, verdicts, strict=True))


def row(name: str, verdicts: list[Judgement]) -> str:
    """A line of the table: of how many, and how many are right in each aspect, and in all."""
    counts = [[verdict.right[aspect] for verdict in verdicts if aspect in verdict.right] for aspect in ASPECTS]
    cells = [f"{sum(count)} ({sum(count) / len(count):.0%})" if count else "-" for count in counts]
    whole = sum(verdict.whole for verdict in verdicts)
    return f"| {name} | {len(verdicts)} | {' | '.join(cells)} | {whole} ({whole / len(verdicts):.0%}) |"


def sheet(films: list[Made]) -> Image.Image:
    """Some frames of each film in a row, with its prompt and what is wrong."""
    rows = []
    for prompt, frames, verdict in films:
        strip = Image.fromarray(np.concatenate([frames[i] for i in COLUMNS if i < len(frames)], axis=1))
        wrong = [f"{name} {getattr(verdict.seen, name)}" for name, right in verdict.right.items() if not right]
        label = prompt + (f"  NOT: {', '.join(wrong)}" if wrong else "")
        ImageDraw.Draw(strip).text((3, 2), label, fill="white", stroke_width=1, stroke_fill="black")
        rows.append(np.asarray(strip))
    return Image.fromarray(np.concatenate(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=40, help="scenes of a line")
    parser.add_argument("--only", nargs="*", help="names of lines (default: all)")
    parser.add_argument("--seed", type=int, default=1_000)
    parser.add_argument("--sheets", type=Path, help="folder for a sheet of frames of each line")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    film, cpu = Film(asked.checkpoint), time.process_time()
    print(f"| {asked.count} new scenes each, seed {asked.seed} | films | {' | '.join(ASPECTS)} | all |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    rng = np.random.default_rng(asked.seed)
    drawn = [draw_scene(rng) for _ in range(asked.count)]
    print(row("drawn", [judge(film.again(draw(scene, WHOLE)), scene.look) for scene in drawn]), flush=True)
    for trial in TRIALS:
        if asked.only and trial.name not in asked.only:
            continue
        films = run_trial(trial, asked.count, asked.seed, film.make)
        print(row(trial.name, [verdict for _, _, verdict in films]), flush=True)
        if asked.sheets:
            asked.sheets.mkdir(parents=True, exist_ok=True)
            sheet(films).save(asked.sheets / f"{trial.name.replace(', ', '_').replace(' ', '_')}.png")
    print(f"\n{time.process_time() - cpu:.0f} s of CPU")


if __name__ == "__main__":
    main()
