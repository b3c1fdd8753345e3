"""How big everything is: the real model's numbers on a GPU, toy sizes in the self-test. The checks know no other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import torch

from ringlight.families.wan.demo import TEXT_ENCODER
from ringlight.families.wan.work.transformer import TransformerSpec
from ringlight.families.wan.work.vae import VaeSpec
from ringlight.families.wan22_ti2v.demo import SIZES, TRANSFORMER, VAE

Alike = TypeVar("Alike")

GIB = 2**30
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
class Generation:
    """A video that the command is to make, the seconds that it may need, and the memory that it may take of the device
    ("" for all of it)."""

    video: Video
    num_steps: int
    vae_dtype: str
    needs_seconds: float
    memory_budget: str = ""

    def __str__(self) -> str:
        within = f", within {self.memory_budget}" if self.memory_budget else ""
        return f"generate {self.video}, {self.num_steps} steps, {self.vae_dtype} VAE{within}"


@dataclass(frozen=True, eq=False)
class Scale:
    """What a run works on. `videos` go from small to large; `brief_video` is one whose ranks have few tokens each, and
    `shared_video` and `bands_video` are for networks that stand beside each other on one device. `demos` are the demo
    checkpoints of the parity section, each with the request fields that replace its defaults; so are `engine_fields` of
    the worker section, and `larger_fields` those of its jobs that need more time and memory. `numbers` describe a whole
    checkpoint with these networks, which makes `generations`. `groups` are numbers of ranks that share the device.
    `budgets` are seconds by section."""

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
    numbers: dict[str, dict[str, Any]]
    generations: tuple[Generation, ...]
    groups: tuple[int, ...]
    budgets: dict[str, float]

    @property
    def is_real(self) -> bool:
        """Whether the networks have the real model's numbers, so that its formulas hold."""
        return self.transformer.num_layers == FULL_TRANSFORMER["num_layers"]

    def some(self, alike: Sequence[Alike]) -> Sequence[Alike]:
        """All of what takes the same way through the code; in the self-test the last."""
        return alike[-1:] if self.self_test else alike

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


def scale_of(device: torch.device, is_toy: bool) -> Scale:
    """The scale of a run."""
    return toy_scale(device) if is_toy else full_scale(device)


def full_scale(device: torch.device) -> Scale:
    """The real model's numbers (Wan2.2-TI2V-5B) on a GPU. The budgets sum to nine minutes."""
    small, large = Video(480, 832, 81), Video(704, 1280, 121)
    return Scale(
        device=device,
        self_test=False,
        transformer=msgspec.convert(TRANSFORMER | FULL_TRANSFORMER, TransformerSpec),
        vae=msgspec.convert(VAE | FULL_VAE, VaeSpec),
        text_encoder=TEXT_ENCODER | FULL_TEXT_ENCODER,
        videos=(small, large),
        brief_video=Video(704, 1280, 25),
        shared_video=Video(480, 832, 9),
        bands_video=Video(176, 320, 9),
        matmul_size=8192,
        long_tokens=27280,
        compile_backend="inductor",
        demos={"tiny": {}},
        engine_demo="small",
        engine_fields={},
        larger_fields={"width": 1024, "height": 640, "num_frames": 121},
        numbers={
            "transformer": FULL_TRANSFORMER,
            "vae": FULL_VAE,
            "text_encoder": FULL_TEXT_ENCODER,
        },
        generations=(
            Generation(large, 4, "float32", 45.0),
            Generation(Video(704, 1280, 25), 2, "float32", 50.0, "10GB"),
            Generation(small, 4, "bfloat16", 25.0),
        ),
        groups=(2, 4),
        budgets={
            "start": 30.0,
            "worker": 50.0,
            "parity": 20.0,
            "generation": 130.0,
            "transformer": 60.0,
            "decoding": 75.0,
            "nccl": 10.0,
            "choices": 60.0,
            "ranks": 45.0,
            "compile": 25.0,
            "more ranks": 35.0,
        },
    )


def toy_scale(device: torch.device) -> Scale:
    """The same code in a minute on a CPU: timings mean nothing. torch.compile stops short of generating code.
    Narrow networks: what a CPU does in bfloat16 it does a thousand times slower than a GPU."""
    tiny = SIZES["tiny"]
    text_dim = {"text_dim": tiny["text_encoder"]["d_model"]}
    fields = {"width": 64, "height": 32, "num_frames": 5, "num_inference_steps": 2}
    return Scale(
        device=device,
        self_test=True,
        transformer=msgspec.convert(TRANSFORMER | tiny["transformer"] | text_dim, TransformerSpec),
        vae=msgspec.convert(VAE | {"base_dim": 4, "decoder_base_dim": 4, "num_res_blocks": 1}, VaeSpec),
        text_encoder=TEXT_ENCODER | tiny["text_encoder"] | {"vocab_size": 1000},
        videos=(Video(32, 32, 5), Video(32, 64, 9)),
        brief_video=Video(64, 96, 9),
        shared_video=Video(64, 96, 17),
        bands_video=Video(80, 32, 5),
        matmul_size=64,
        long_tokens=200,
        compile_backend="aot_eager",
        demos={"tiny": fields},
        engine_demo="tiny",
        engine_fields=fields,
        larger_fields={"num_frames": 81},
        numbers=tiny,
        generations=(Generation(Video(64, 64, 5), 1, "float32", 0.0, "1GiB"),),
        groups=(2,),
        budgets=dict.fromkeys(full_scale(device).budgets, 300.0),
    )
