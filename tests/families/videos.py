"""What is asked of every family alike: videos like those of diffusers, of one rank and of many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ringlight.core.layout import ParallelLayout
from ringlight.core.picture import fit_picture
from ringlight.core.request import RequestDefaults, VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.families.wan.recipe import WanRecipe
from ringlight.parallel.mesh import ParallelMesh
from tests.ours import as_png, new_tracer
from tests.parallel.ranks import on_ranks

SIZE = (48, 80)  # width and height in pixels: 5 x 3 tokens a frame, which no number of ranks divides


def make_request(spec: ModelSpec, **fields: Any) -> VideoRequest:
    """A small video of a few steps with guidance."""
    width, height = SIZE
    given = {"negative_prompt": "blurry", "num_inference_steps": 3, "seed": 7, "width": width, "height": height}
    return RequestDefaults().complete("a violin player", spec, **{"num_frames": 9} | given | fields)


def fitted(photograph: Path, size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture of the size of the video, which neither of two programs has to resize."""
    return fit_picture(Image.open(photograph), *size)


def png(photograph: Path, size: tuple[int, int] = SIZE) -> bytes:
    return as_png(fitted(photograph, size))


def latents_on(pipeline: WanRecipe, request: VideoRequest, layout: str, folder: Path) -> Tensor:
    """Final latents of a request on the ranks of a layout."""
    path = folder / f"{layout}.safetensors"

    def work(mesh: ParallelMesh) -> Tensor:
        pipeline.run(request, path, "job", new_tracer(), mesh)
        return torch.zeros(1)

    on_ranks(ParallelLayout.parse(layout), work)
    return load_file(path)["latents"]
