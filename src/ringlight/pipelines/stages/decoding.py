"""Decoding: latents to frames, as a stream into the output."""

from __future__ import annotations

import torch
from torch import Tensor

from ringlight.core.spec import VaeSpec
from ringlight.models.wan.vae import WanVae
from ringlight.pipelines.output import FrameWriter
from ringlight.pipelines.trace import JobEvents

MAX_CHUNK = 8
FREE_SHARE = 0.25


def decode(latents: Tensor, vae: WanVae, chunk: int, writer: FrameWriter, events: JobEvents) -> None:
    """Decode (1, z, T, h, w) latents and hand the frames to the writer as they come.

    The first latent frame comes alone; the others `chunk` at a time (0: as many as memory allows).
    """
    _, _, num_latents, height, width = latents.shape
    num_frames = (num_latents - 1) * vae.spec.scale_factor_temporal + 1
    chunk = chunk or chunk_for_memory(vae.spec, vae.dtype, latents.device, height * width)
    stream = vae.start_decoding(height, width, num_latents)
    done, start = 0, 0
    while start < num_latents:
        events.check_cancelled()
        stop = min(start + chunk, num_latents) if start else 1
        frames = vae.decode_next(latents[0, :, start:stop], stream, first=start == 0)
        writer.write(frames)
        done += len(frames)
        events.frames_decoded(done, num_frames)
        start = stop


def chunk_for_memory(spec: VaeSpec, dtype: torch.dtype, device: torch.device, latent_pixels: int) -> int:
    """How many latent frames to decode at a time: on CUDA as many as a quarter of free memory holds, up to 8.

    On a CPU one: more at a time gained nothing there (docs/log.md).
    """
    if device.type != "cuda":
        return 1
    free_bytes, _ = torch.cuda.mem_get_info(device)
    reserved_slack = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    # The widest activations: full resolution before unpatching, five of them alive at once.
    pixels = latent_pixels * (spec.scale_factor_spatial // spec.patch_size) ** 2
    per_latent = 5 * pixels * spec.scale_factor_temporal * spec.decoder_dim * spec.dim_mult[1] * dtype.itemsize
    return max(1, min(MAX_CHUNK, int(FREE_SHARE * (free_bytes + reserved_slack)) // per_latent))
