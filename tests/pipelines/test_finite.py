"""What a network makes that is not finite: the stage is named, and nothing is written, not even in part."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ringlight.core.errors import NumericalError
from ringlight.core.request import RequestDefaults
from ringlight.families.model import ModelSpec
from ringlight.models.finite import extremes, not_finite
from tests.ours import frames, load_pipeline, new_tracer, poison

POISONS = [
    ("text_encoder.network.encoder.final_layer_norm.weight", math.nan, "TextEncoding: embeddings"),
    ("vae.encoder.conv_in.bias", math.nan, "ImageEncoding: latents of the picture"),
    ("vae.encoder.conv_out.bias", -math.inf, "ImageEncoding: latents of the picture"),
    ("transformer.proj_out.bias", math.nan, "Denoising: latents after step 1 of 2"),
    ("transformer.proj_out.bias", math.inf, "Denoising: latents after step 1 of 2"),
    ("vae.decoder.conv_in.weight", math.inf, "Decoding: frames"),
    ("vae.decoder.norm_out.gamma", math.nan, "Decoding: frames"),
    ("vae.decoder.conv_out.weight", 1e38, "Decoding: frames"),
    ("vae.decoder.conv_out.bias", math.nan, "Decoding: frames"),
    ("vae.decoder.conv_out.bias", math.inf, "Decoding: frames"),  # clamped, it would be white
]


@pytest.mark.parametrize(
    ("parameter", "value", "said"),
    [*POISONS[:1], *(pytest.param(*case, marks=pytest.mark.slow) for case in POISONS[1:])],
)
def test_the_stage_is_named_and_nothing_is_written(
    tiny: Path, spec: ModelSpec, photograph: Path, tmp_path: Path, parameter: str, value: float, said: str
) -> None:
    pipeline = load_pipeline(tiny)
    request = RequestDefaults().complete(
        "a cat", spec, width=32, height=32, num_frames=5, num_inference_steps=2, seed=1, image=photograph.read_bytes()
    )
    pipeline.prompts.forget()
    with poison(pipeline, parameter, value), pytest.raises(NumericalError) as caught:
        pipeline.run(request, tmp_path / "film.mp4", "job", new_tracer())
    assert str(caught.value).startswith(f"{said} hold NaN or infinity; ")
    assert list(tmp_path.iterdir()) == []
    assert bool(frames(pipeline, request, tmp_path).isfinite().all()), "no embedding of the broken run is remembered"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_number_of_a_million_is_seen(bad: float, dtype: torch.dtype) -> None:
    numbers = torch.randn(1_000_000).to(dtype)
    assert not_finite("Decoding", "frames", extremes(numbers)) is None
    numbers[654_321] = bad
    assert isinstance(not_finite("Decoding", "frames", extremes(numbers)), NumericalError)
