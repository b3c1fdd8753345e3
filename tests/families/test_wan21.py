"""Wan2.1-T2V: its numbers, its videos against diffusers, over many ranks, and what is planned of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ringlight.core.errors import InvalidRequest
from ringlight.core.layout import ParallelLayout
from ringlight.core.request import RequestDefaults, RequestLimits, VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.families.table import known_model, read_model
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.output import to_unit_range
from ringlight.pipelines.stages.decoding import decode
from ringlight.pipelines.stages.image_encoding import encode_image
from tests.ours import CPU, Silent, load_pipeline
from tests.parallel.ranks import on_ranks
from tests.parallel.test_bands import Kept

SMALL, LARGE = known_model("Wan2.1-T2V-1.3B"), known_model("Wan2.1-T2V-14B")
META = torch.device("meta")


def make_request(spec: ModelSpec, **fields: Any) -> VideoRequest:
    given = {"negative_prompt": "blurry", "num_inference_steps": 3, "seed": 7, "width": 80, "height": 112} | fields
    return RequestDefaults().complete("a violin player", spec, **{"num_frames": 9} | given)


def test_the_built_in_cards_have_the_published_sizes() -> None:
    assert round(SMALL.transformer.layers.parameters / 1e9, 3) == 1.419
    assert round(LARGE.transformer.layers.parameters / 1e9, 3) == 14.288
    assert round(SMALL.vae.decoder.parameters / 1e6, 1) == 73.3
    assert round(SMALL.vae.encoder.parameters / 1e6, 1) == 53.6
    assert LARGE.size_multiple == (16, 16)
    assert LARGE.num_tokens(81, 480, 832) == 32_760
    assert LARGE.num_tokens(81, 720, 1280) == 75_600


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_bands_of_the_vae_make_what_one_rank_makes(tiny21: Path, num_ranks: int) -> None:
    vae = load_pipeline(tiny21).vae
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 16, 4, 7, 5, generator=generator)
    picture = torch.rand(1, 8 * 7, 8 * 5, 3, generator=generator) * 2 - 1

    def made(mesh: ParallelMesh) -> Tensor:
        """All frames, on rank 0 alone, and latents of the picture."""
        writer = Kept() if mesh.world.rank == 0 else None
        decode(latents, vae, 2, to_unit_range, writer, Silent(), mesh.world)
        encoded = encode_image(picture, vae, CPU, mesh.world, Silent())
        return torch.cat([part.flatten() for part in (*(writer.parts if writer else ()), encoded)])

    alone = made(ParallelMesh.alone())
    whole, *others = on_ranks(ParallelLayout(ring=num_ranks), made)
    torch.testing.assert_close(whole, alone, rtol=0, atol=2e-5)
    for encoded in others:
        torch.testing.assert_close(encoded, alone[-len(encoded) :], rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_bands_send_what_the_layers_say(tiny21: Path, num_ranks: int) -> None:
    vae, size, picture = load_pipeline(tiny21).vae, (3, 7, 5), (5, 4)
    kinds = ("halo", "gather", "frames")

    def sent(mesh: ParallelMesh) -> Tensor:
        """Bytes of each kind in decoding, and in encoding."""
        link, counted = mesh.world.link, []
        for work in (
            lambda: decode(
                torch.zeros(1, 16, *size),
                vae,
                1,
                to_unit_range,
                Kept() if mesh.world.rank == 0 else None,
                Silent(),
                mesh.world,
            ),
            lambda: encode_image(torch.zeros(1, 8 * picture[0], 8 * picture[1], 3), vae, CPU, mesh.world, Silent()),
        ):
            link.reset()
            work()
            report = link.report()
            assert report.keys() <= set(kinds)
            counted += [report[kind].sent_bytes if kind in report else 0 for kind in kinds]
        return torch.tensor(counted)

    for rank, found in enumerate(on_ranks(ParallelLayout(ring=num_ranks), sent)):
        decoding = vae.spec.decoder.sent_bytes(num_ranks, rank, size, frame_itemsize=4, itemsize=4)
        encoding = vae.spec.encoder.sent_bytes(num_ranks, rank, picture, itemsize=4)
        assert found.tolist() == [told.get(kind, 0) for told in (decoding, encoding) for kind in kinds]


def test_a_picture_is_refused_with_the_reason(tiny21: Path) -> None:
    spec = read_model(tiny21)
    with pytest.raises(InvalidRequest, match="of text alone") as caught:
        make_request(spec, image=b"picture").check(spec, RequestLimits())
    assert caught.value.problems[0].field == "image"
