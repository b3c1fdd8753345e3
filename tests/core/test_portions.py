"""How large slices are, and portions of frames."""

from __future__ import annotations

import pytest

from ringlight.core.portions import slice_sizes
from ringlight.families.layers.decoder import MAX_DECODED_LATENTS
from ringlight.families.wan22_ti2v.card import WAN22_TI2V_5B

VAE = WAN22_TI2V_5B.vae


@pytest.mark.parametrize("num_slices", [2, 3, 4, 5, 8, 16])
def test_slices_are_the_whole_and_begin_small(num_slices: int) -> None:
    for tokens in range(200):
        sizes = slice_sizes(tokens, num_slices)
        assert len(sizes) == num_slices
        assert sum(sizes) == tokens
        assert min(sizes) >= 0
        assert num_slices == 2 or sizes[0] <= max(sizes) / 2 + 1


def test_a_larger_card_decodes_more_at_a_time() -> None:
    """Of 1280x704 in float32 a latent frame's widest activations are 8.6 GiB; a CPU has nothing to spare."""
    spare = [0, -1, 2**35, 2**36, 2**37, 2**38, 2**40]
    assert [VAE.decoder.portion(44, 80, 4, each) for each in spare] == [1, 1, 1, 1, 3, 7, 8]
    assert [VAE.decoder.portion(22, 80, 2, each) for each in spare] == [1, 1, 3, 7, 8, 8, 8]
    assert MAX_DECODED_LATENTS == 8


@pytest.mark.parametrize(("size", "most"), [((44, 80), 8), ((68, 120), 3), ((144, 256), 1), ((18, 256), 6)])
def test_portions_leave_no_tensor_too_long(size: tuple[int, int], most: int) -> None:
    """Of 1280x704, 1920x1088, 4096x2304, and of a band of an eighth of it; also where more is asked for."""
    assert VAE.decoder.most_latents(*size) == most
    assert VAE.decoder.portion(*size, itemsize=2, spare_bytes=2**50) == most
    assert VAE.decoder.portion(*size, itemsize=2, spare_bytes=0, asked=8) == most


def test_a_frame_at_a_time_where_two_are_too_long() -> None:
    assert VAE.decoder.frames_at_once(44, 80, 8) == 16
    assert VAE.decoder.frames_at_once(144, 256, 1) == 1
