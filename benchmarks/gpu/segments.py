"""Expandable segments: what the allocator reserves beside what decoding allocates, in a process with them and without.

The allocator reads its settings once, so each way has a process of its own: `python -m gpu.segments DEVICE SCALE`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from gpu.clock import read_peak, start_peak, timed
from gpu.networks import make_vae
from gpu.report import Row
from gpu.scale import GIB, Scale, scale_of
from ringlight.families.wan.networks.vae import WanVae
from ringlight.parallel.halo import Bands

SETTINGS = {"as by default": "", "expandable segments": "expandable_segments:True"}
CHUNKS = (1, 2)


def compare(scale: Scale) -> Iterator[Row]:
    """Two sizes of videos in turn, as requests come."""
    for name, setting in scale.some(list(SETTINGS.items())):
        done = subprocess.run(
            [sys.executable, "-m", "gpu.segments", str(scale.device), "toy" if scale.self_test else "full"],
            env=_environment(setting),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{name}: exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        allocated, reserved = found["allocated_bytes"], found["reserved_bytes"]
        overhead = f"{reserved / allocated - 1:.1%} more" if allocated else "a CPU has no such allocator"
        told = f"{found['seconds']:.2f} s; peaks {allocated / GIB:.2f} GiB allocated, {reserved / GIB:.2f} GiB reserved"
        yield Row(f"decoding two sizes, allocator {name}", f"{told}: {overhead}", numbers=found)


def _environment(setting: str) -> dict[str, str]:
    """Ours, with what python finds here, and the allocator's setting by its new name and its old one."""
    here = os.pathsep.join([str(Path(__file__).resolve().parents[1]), *filter(None, sys.path)])
    others = {name: value for name, value in os.environ.items() if not name.endswith("_ALLOC_CONF")}
    given = {"PYTORCH_ALLOC_CONF": setting, "PYTORCH_CUDA_ALLOC_CONF": setting} if setting else {}
    return others | {"PYTHONPATH": here} | given


@torch.inference_mode()
def _decode(vae: WanVae, scale: Scale) -> None:
    for video, chunk in ((scale.videos[-1], CHUNKS[0]), (scale.videos[0], CHUNKS[1]), (scale.videos[-1], CHUNKS[1])):
        channels, _, rows, columns = scale.latent_shape(video)
        latents = 0.5 * torch.randn(channels, 1 + chunk, rows, columns, device=scale.device)
        stream = vae.start_decoding(Bands.alone(rows), columns, latents.shape[1], latents.device)
        vae.decode_next(latents[:, :1], stream, True)
        for start in range(1, latents.shape[1], chunk):
            vae.decode_next(latents[:, start : start + chunk], stream, False)


def main() -> None:
    """One way, in this process."""
    name, size = sys.argv[1:]
    scale = scale_of(torch.device(name), size == "toy")
    vae = make_vae(scale.vae, scale.device, torch.bfloat16)
    start_peak(scale.device)
    seconds = timed(lambda: _decode(vae, scale), scale.device)
    peak = read_peak(scale.device)
    print(
        json.dumps({"seconds": seconds, "allocated_bytes": peak.allocated_bytes, "reserved_bytes": peak.reserved_bytes})
    )


if __name__ == "__main__":
    main()
