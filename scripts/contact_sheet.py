"""Frames of a video side by side in one picture, for a README or a quick look.

python scripts/contact_sheet.py VIDEO PICTURE [COLUMNS ROWS]
"""

from __future__ import annotations

import sys

import av
from PIL import Image

GAP = 4
CELL_WIDTH = 256


def contact_sheet(video: str, columns: int = 3, rows: int = 2) -> Image.Image:
    """Frames at even distances, the first and the last among them, on white."""
    with av.open(video) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    wanted = min(columns * rows, len(frames))
    chosen = [frames[round(i * (len(frames) - 1) / max(1, wanted - 1))] for i in range(wanted)]
    height = round(CELL_WIDTH * chosen[0].height / chosen[0].width)
    sheet = Image.new("RGB", (columns * (CELL_WIDTH + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for i, frame in enumerate(chosen):
        place = ((i % columns) * (CELL_WIDTH + GAP), (i // columns) * (height + GAP))
        sheet.paste(frame.resize((CELL_WIDTH, height), Image.Resampling.LANCZOS), place)
    return sheet


if __name__ == "__main__":
    source, target, *grid = sys.argv[1:]
    contact_sheet(source, *map(int, grid)).save(target)
