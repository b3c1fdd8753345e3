"""How big everything is: the real model's numbers on a GPU, toy sizes in the self-test. The checks know no other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import msgspec
import torch

from ringlight.core.spec import TransformerSpec, VaeSpec
from ringlight.models.wan.demo import SIZES, TEXT_ENCODER, TRANSFORMER, VAE

MAX_TEXT_ROWS = 512
TRUE_TEXT_ROWS = 77  # tokens of a prompt of ordinary length
FULL_TRANSFORMER = {
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "ffn_dim": 14336,
    "num_layers": 30,
    "text_dim": 4096,
}
FULL_VAE = {"base_dim": 160, "decoder_base_dim": 256}
FULL_TEXT_ENCODER = {
    "d_model": 4096,
    "d_ff": 10240,
    "num_heads": 64,
    "d_kv": 64,
    "num_layers": 24,
    "vocab_size": 256384,
}


@dataclass(frozen=True)
class Video:
    """A size of a video, in pixels and frames."""

    height: int
    width: int
    num_frames: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.num_frames}"


@dataclass(frozen=True)
class Scale:
    """What a run works on. `videos` go from small to large; `brief_video` is one whose ranks have few tokens each, and
    `shared_video` and `bands_video` are for networks that stand beside each other on one device. `demos` are the demo
    checkpoints of the parity section, each with the request fields that replace its defaults; so are `engine_fields` of
    the pipeline section, and `larger_fields` those of its jobs that need more time and memory. `budgets` are seconds by
    section."""

    device: torch.device
    self_test: bool
    transformer: TransformerSpec
    vae: VaeSpec
    text_encoder: dict[str, Any]
    videos: tuple[Video, ...]
    brief_video: Video
    shared_video: Video
    bands_video: Video
    matmul_size: int
    long_tokens: int
    compile_backend: str
    demos: dict[str, dict[str, Any]]
    engine_demo: str
    engine_fields: dict[str, Any]
    larger_fields: dict[str, Any]
    budgets: dict[str, float]

    @property
    def is_real(self) -> bool:
        """Whether the networks have the real model's numbers, so that its formulas hold."""
        return self.transformer.num_layers == FULL_TRANSFORMER["num_layers"]

    def latent_shape(self, video: Video) -> tuple[int, int, int, int]:
        """(channels, frames, rows, columns) of the latents."""
        frames = (video.num_frames - 1) // self.vae.scale_factor_temporal + 1
        factor = self.vae.scale_factor_spatial
        return (self.vae.z_dim, frames, video.height // factor, video.width // factor)

    def grid(self, video: Video) -> tuple[int, int, int]:
        """Tokens along time, height and width."""
        sizes = self.latent_shape(video)[1:]
        frames, rows, columns = (n // p for n, p in zip(sizes, self.transformer.patch_size, strict=True))
        return (frames, rows, columns)

    def num_tokens(self, video: Video) -> int:
        return math.prod(self.grid(video))


def full_scale(device: torch.device) -> Scale:
    """The real model's numbers (Wan2.2-TI2V-5B) on a GPU. The budgets sum to nine minutes."""
    return Scale(
        device=device,
        self_test=False,
        transformer=msgspec.convert(TRANSFORMER | FULL_TRANSFORMER, TransformerSpec),
        vae=msgspec.convert(VAE | FULL_VAE, VaeSpec),
        text_encoder=TEXT_ENCODER | FULL_TEXT_ENCODER,
        videos=(Video(480, 832, 81), Video(704, 1280, 121)),
        brief_video=Video(704, 1280, 25),
        shared_video=Video(480, 832, 9),
        bands_video=Video(176, 320, 9),
        matmul_size=8192,
        long_tokens=27280,
        compile_backend="inductor",
        demos={"tiny": {}, "small": {}},
        engine_demo="small",
        engine_fields={},
        larger_fields={"width": 1024, "height": 640, "num_frames": 121},
        budgets={"kernels": 50.0, "parity": 65.0, "full": 240.0, "pipeline": 65.0, "ranks": 120.0},
    )


def toy_scale(device: torch.device) -> Scale:
    """The same code in a minute on a CPU: timings mean nothing. torch.compile stops short of generating code."""
    tiny = SIZES["tiny"]
    text_dim = {"text_dim": tiny["text_encoder"]["d_model"]}
    fields = {"width": 64, "height": 64, "num_frames": 9, "num_inference_steps": 2}
    return Scale(
        device=device,
        self_test=True,
        transformer=msgspec.convert(TRANSFORMER | tiny["transformer"] | text_dim, TransformerSpec),
        vae=msgspec.convert(VAE | tiny["vae"], VaeSpec),
        text_encoder=TEXT_ENCODER | tiny["text_encoder"] | {"vocab_size": 1000},
        videos=(Video(64, 64, 9), Video(64, 96, 33)),
        brief_video=Video(64, 96, 9),
        shared_video=Video(64, 96, 17),
        bands_video=Video(80, 64, 9),
        matmul_size=256,
        long_tokens=1000,
        compile_backend="aot_eager",
        demos={"tiny": fields, "small": fields},
        engine_demo="tiny",
        engine_fields=fields,
        larger_fields={"num_frames": 121},
        budgets={"kernels": 60.0, "parity": 60.0, "full": 120.0, "pipeline": 120.0, "ranks": 180.0},
    )


def photograph() -> Path:
    """A real photograph (512x600, JPEG) that matplotlib ships."""
    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
