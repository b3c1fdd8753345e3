"""The VAE at full size on fake CUDA tensors, both ways, whole and in bands."""

from __future__ import annotations

import pytest
import torch

from ringlight.core.layout import split_sizes
from ringlight.core.portions import MAX_ELEMENTS
from ringlight.families.table import known_model
from tests.fake_cuda.device import on_fake_cuda
from tests.fake_cuda.networks import Decode, Encode, Size, case_name

PAGE, LONG, SMALL = Size(704, 1280, 25), Size(704, 1280, 121), Size(480, 832, 81)
WIDE, LARGEST = Size(1088, 1920, 121), Size(2304, 4096, 145)
HD, WAN21, I2V = Size(720, 1280, 81), "Wan2.1-T2V-14B", "Wan2.2-I2V-A14B"
QHD = Size(1440, 2560, 5)  # as large as all frames of a video may be that go through the encoder
BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32
slow = pytest.mark.slow


def planned(decode: Decode) -> int:
    """Bytes that a plan counts for all of a video in such portions."""
    spec, itemsize = known_model(decode.model), decode.dtype.itemsize
    _, num_latents, rows, columns = decode.size.latents(spec)
    latent_size = (num_latents, rows, columns)
    elements = spec.vae.decoding_elements(
        latent_size, decode.num_ranks, decode.portion, False, itemsize, decode.placement
    )
    return elements * itemsize


@slow
@pytest.mark.parametrize(
    "decode",
    [
        Decode(LONG),
        Decode(SMALL, portion=2),
        Decode(LONG, portion=8, dtype=BFLOAT16),
        Decode(WIDE, portion=3, dtype=BFLOAT16),
        Decode(SMALL, num_ranks=4, dtype=BFLOAT16, rank=1),
        Decode(LARGEST, dtype=BFLOAT16),
        Decode(SMALL, model=WAN21),
        Decode(HD, num_ranks=2, dtype=BFLOAT16, portion=2, model=WAN21),
        Decode(PAGE, frames_at_once=1, host_history=1),
        Decode(LARGEST, host_history=4, dtype=BFLOAT16),
        Decode(HD, frames_at_once=2, host_history=2, num_ranks=2, model=WAN21),
    ],
    ids=case_name,
)
def test_decoding_holds_what_is_planned(decode: Decode) -> None:
    """The portions are the largest that leave no tensor too long, or what fits into a card."""
    spec = known_model(decode.model)
    _, _, rows, columns = decode.size.latents(spec)
    assert decode.portion <= spec.vae.decoder.most_latents(split_sizes(rows, decode.num_ranks)[0], columns)
    seen = on_fake_cuda(decode.run)
    assert planned(decode) == pytest.approx(seen.peak_bytes, rel=0.05)
    assert seen.reach <= MAX_ELEMENTS, seen.widest
    assert seen.dtypes["fused.conv3d.default"] == {decode.dtype}


@slow
@pytest.mark.parametrize(
    "encode",
    [
        Encode(LONG),
        Encode(LONG, num_ranks=2, dtype=BFLOAT16),
        Encode(LARGEST),
        Encode(SMALL, num_ranks=2, model=WAN21),
        Encode(HD, model=I2V, goes_on=True),
        Encode(SMALL, model=I2V, dtype=BFLOAT16, goes_on=True),
        Encode(HD, num_ranks=2, model=I2V, goes_on=True),
        Encode(QHD, model=I2V, goes_on=True),
    ],
    ids=case_name,
)
def test_encoding_holds_what_is_planned(encode: Encode) -> None:
    """Of a first frame it is less than decoding does, so that only plans count it in which weights come and go."""
    seen = on_fake_cuda(encode.run)
    assert seen.reach <= MAX_ELEMENTS, seen.widest
    assert seen.dtypes["fused.conv3d.default"] == {encode.dtype}
    spec, itemsize = known_model(encode.model), encode.dtype.itemsize
    _, _, *latent_size = encode.size.latents(spec)
    elements = spec.vae.encoding_elements((1 + encode.goes_on, *latent_size), encode.num_ranks, False, itemsize)
    assert elements * itemsize == pytest.approx(seen.peak_bytes, rel=0.05)
    decode = Decode(encode.size, num_ranks=encode.num_ranks, dtype=encode.dtype, model=encode.model)
    assert encode.goes_on or seen.peak_bytes < planned(decode)
