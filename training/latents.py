"""Draw clips or stills and encode them: `python -m training.latents OUT --count N`.

A clip has its whole caption. Half of the stills are the first frames of clips with the whole caption, half any frame
with a caption that says nothing of motion. OUT gets one file after another, each of `PART` items.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from training.drawing import Size, draw
from training.run import LOG
from training.train_vae import to_video
from training.vae_start import means
from training.world import Scene, caption, draw_scene

PART = 200
ODD_WORD = 0.08  # share of captions with a word that nobody knows, so that it is learned to mean nothing
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Item(msgspec.Struct, frozen=True):
    """What latents show. `frame` is a still's; a clip has none."""

    scene: Scene
    caption: str
    frame: int | None


def draw_item(rng: np.random.Generator, number: int, size: Size, still: bool) -> Item:
    scene = draw_scene(rng)
    told = not still or number % 2 == 1  # whether the caption tells the motion
    frame = int(rng.integers(size.frames)) if not told else 0 if still else None
    text = caption(scene, rng, motion=told)
    if rng.random() < ODD_WORD:
        article, rest = text.split(" ", 1)
        text = f"{article} {''.join(rng.choice(list(LETTERS), rng.integers(3, 8)))} {rest}"
    return Item(scene, text, frame)


def read_items(stored: bytes) -> list[Item]:
    return msgspec.json.decode(stored, type=list[Item])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of latents; parts that are there are kept")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--size", type=Size.read, default=Size(), metavar="WIDTHxHEIGHTxFRAMES")
    parser.add_argument("--still", action="store_true")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    for begin in range(0, asked.count, PART):
        out = asked.out / f"{begin:05d}.pt"
        if out.exists():
            continue
        cpu, wall = time.process_time(), time.monotonic()
        rng = np.random.default_rng((asked.seed, begin))
        items = [draw_item(rng, number, asked.size, asked.still) for number in range(min(PART, asked.count - begin))]
        latents = [means(to_video(draw(item.scene, asked.size, _frames(item))[None]))[0].half() for item in items]
        new = out.with_suffix(".new")
        torch.save({"latents": torch.stack(latents), "items": msgspec.json.encode(items), "size": str(asked.size)}, new)
        new.replace(out)
        spent = {"part": out.name, "items": len(items), "size": str(asked.size), "still": asked.still}
        spent |= {"cpu_s": round(time.process_time() - cpu, 1), "wall_s": round(time.monotonic() - wall, 1)}
        with (asked.out / LOG).open("a") as file:
            print(json.dumps(spent), file=file)
        print(spent, flush=True)


def _frames(item: Item) -> range | None:
    return None if item.frame is None else range(item.frame, item.frame + 1)


if __name__ == "__main__":
    main()
