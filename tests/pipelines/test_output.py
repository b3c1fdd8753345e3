"""Outputs as files: the same frames give the same bytes, and what fails leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ringlight.core.request import RequestDefaults
from ringlight.families.model import ModelSpec
from ringlight.pipelines.output import LatentsWriter, Output, finish, open_writer

SIZE, NUM_FRAMES = (192, 320), 9


@pytest.mark.parametrize(
    ("suffix", "times"),
    [
        (".mp4", 6),
        pytest.param(".webm", 6, marks=pytest.mark.slow),
        pytest.param(".gif", 2, marks=pytest.mark.slow),  # by one thread
    ],
)
def test_the_same_frames_give_the_same_file(
    spec: ModelSpec, photograph: Path, tmp_path: Path, suffix: str, times: int
) -> None:
    """So that a video which was made again after a fault is the very same, also as it is seen."""
    height, width = SIZE
    request = RequestDefaults().complete("a cat", spec, width=width, height=height, num_frames=NUM_FRAMES)
    picture = torch.from_numpy(np.array(Image.open(photograph)))
    frames = torch.stack([picture[2 * i : 2 * i + height, i : i + width] for i in range(NUM_FRAMES)])
    files = set()
    for _ in range(times):
        path = tmp_path / f"film{suffix}"
        writer = open_writer(path, request, "job")
        for part in frames.split(4):
            writer.write(part)
        finish(writer)
        files.add(path.read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("name", ["film.mp4", "film.npy", "film_%02d.png", "film.safetensors"])
def test_an_output_that_cannot_be_moved_into_place_leaves_nothing_behind(
    spec: ModelSpec, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    in_the_way = tmp_path / name.replace("%02d", "00")
    in_the_way.mkdir()
    request = RequestDefaults().complete("a cat", spec, width=64, height=32, num_frames=5)
    output: Output
    if path.suffix == ".safetensors":
        output = LatentsWriter(torch.zeros(1, 48, 2, 2, 4), path, "job")
    else:
        writer = open_writer(path, request, "job")
        writer.write(torch.zeros(5, 32, 64, 3, dtype=torch.uint8))
        output = writer
    with pytest.raises(OSError, match="Is a directory"):
        finish(output)
    assert list(tmp_path.iterdir()) == [in_the_way]
