"""Train the VAE's decoder on crops of clips: `python -m training.train_vae RUN`. The encoder is made, not trained.

Latents do not change by it, so the transformer can learn at the same time.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from training import vae_whole
from training.drawing import Frames, Size, Window, draw, middle_of
from training.run import Run, Schedule, draws, fast, optimisers_of, split
from training.vae_start import make_vae, means, start
from training.world import draw_scene

ENDS = {"conv_out.weight"}
RATES = [6e-4, 6e-3]  # of AdamW and Muon; three times these tear the constructed start down
CROP, BATCHES = 64, ((4, 5), (2, 9))  # pixels of a side; crops and frames of a batch, in turn
SIZES = [Size(), Size(), Size(), Size(192, 128), Size(320, 192)]
NOISE, EDGES = 0.1, 0.5
WATCHED = 2  # clips that are not trained on


def to_video(clips: Frames) -> Tensor:
    """(B, F, H, W, 3) of 0..255 -> (B, 3, F, H, W) in -1..1, channels last in memory."""
    video = torch.from_numpy(np.ascontiguousarray(clips)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    return video.contiguous(memory_format=torch.channels_last_3d)


def crops(rng: np.random.Generator, count: int, frames: int) -> Tensor:
    """Parts of so many new clips, mostly where the solid is."""
    return to_video(np.stack([_crop(rng, frames) for _ in range(count)]))


def _crop(rng: np.random.Generator, frames: int) -> Frames:
    size = SIZES[rng.integers(len(SIZES))]
    scene = draw_scene(rng)
    begin = int(rng.integers(0, size.frames - frames + 1))
    corner = rng.uniform(0, (size.width - CROP, size.height - CROP))
    if rng.random() < 0.75:
        corner = middle_of(scene, size)[begin + frames // 2] - CROP / 2 + rng.uniform(-38, 38, 2)
    x, y = (int(v) for v in np.clip(corner, 0, (size.width - CROP, size.height - CROP)))
    part = draw(scene, size, range(begin, begin + frames), Window(x, y, CROP, CROP))
    return part[:, :, ::-1] if rng.random() < 0.5 else part


def edges(x: Tensor) -> Tensor:
    """The mean size of differences between neighbours, down and across."""
    return x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()


def loss_of(vae: AutoencoderKLWan, video: Tensor, noise: torch.Generator) -> Tensor:
    latents = means(video)
    latents = latents + NOISE * torch.randn(latents.shape, generator=noise)
    with fast():
        error = vae_whole.decode(vae, latents).float() - video
    return error.abs().mean() + error.square().mean() + EDGES * edges(error)


@torch.no_grad()
def psnr(vae: AutoencoderKLWan, clips: list[Frames]) -> float:
    """The mean over clips, in dB, through encoder and decoder."""
    values = []
    for clip in clips:
        video = to_video(clip[None])
        with fast():
            again = vae_whole.decode(vae, means(video)).float().clamp(-1, 1)
        values.append(-10 * math.log10(((again - video) / 2).square().mean().item()))
    return sum(values) / len(values)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of state and log; what is there is gone on with")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--fall", type=int, default=300, help="steps at the end over which the rates fall to nothing")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    torch.manual_seed(asked.seed)
    vae = make_vae()
    start(vae)
    trained = vae.decoder
    kernels = {n for n, p in trained.named_parameters() if n.endswith("weight") and p.ndim >= 4 and n not in ENDS}
    run = Run(asked.run, {"vae": vae}, optimisers_of(*split(trained, kernels)))
    schedule = Schedule(asked.steps, asked.fall)
    watched = [draw(draw_scene(np.random.default_rng(10_000 + i)), Size()) for i in range(WATCHED)]
    losses = []
    while run.step < schedule.steps:
        run.set_rates(schedule.rate(run.step), RATES)
        rng, noise = draws(asked.seed, run.step)
        loss = loss_of(vae, crops(rng, *BATCHES[run.step % 2]), noise)
        trained.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        for optimiser in run.optimisers:
            optimiser.step()
        run.step += 1
        losses.append(loss.item())
        if run.step % 50 == 0:
            run.log(loss=round(sum(losses) / len(losses), 4), psnr=round(psnr(vae, watched), 2))
            losses.clear()
        run.save(every=60)
    run.save()


if __name__ == "__main__":
    main()
