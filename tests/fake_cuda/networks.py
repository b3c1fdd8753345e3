"""The networks of published models at full size on a fake device, and what each of their tasks holds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import msgspec
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from ringlight.core.layout import ParallelLayout
from ringlight.core.plan import Placement
from ringlight.families.model import ModelSpec
from ringlight.families.table import known_model
from ringlight.families.wan.networks.text_encoder import TextEncoder
from ringlight.families.wan.networks.transformer import WanTransformer
from ringlight.families.wan.networks.umt5 import Umt5Config
from ringlight.families.wan.networks.vae import WanVae
from ringlight.families.wan.work.transformer import TransformerSpec
from ringlight.families.wan.work.vae import VaeSpec
from ringlight.kernels.attention.kernel import load_kernel
from ringlight.models.loading import materialise
from ringlight.parallel.halo import Bands
from ringlight.parallel.turns import in_turns
from tests.fake_cuda.rank import mesh_of
from tests.fake_cuda.watch import Seen, Watch
from tests.planner.specs import REAL
from tests.residency.exchanges import AtOnce

DEVICE = torch.device("cuda:0")
LAYERS = 2  # each holds what the others do
TRUE_ROWS = 77  # of text, of a prompt of ordinary length


@dataclass(frozen=True)
class Size:
    """Of a video, in pixels and frames."""

    height: int
    width: int
    num_frames: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.num_frames}"

    def latents(self, spec: ModelSpec) -> tuple[int, int, int, int]:
        return spec.latent_shape(self.num_frames, self.height, self.width)


@dataclass(frozen=True)
class Forward:
    """One prediction of the transformer on one rank: of one branch, or of two that take turns."""

    size: Size
    layout: str = "u1r1"
    num_slices: int = 1
    take_turns: bool = False
    dtype: torch.dtype = torch.bfloat16
    kernel: str = "cudnn"
    with_picture: bool = False
    rank: int = 0
    num_layers: int = LAYERS
    model: str = REAL.name

    def run(self) -> Seen:
        spec = known_model(self.model)
        assert isinstance(spec.transformer, TransformerSpec)
        with torch.device("meta"):
            network = WanTransformer(msgspec.structs.replace(spec.transformer, num_layers=self.num_layers))
        materialise(network, DEVICE, self.dtype, WanTransformer.KEPT_IN_FLOAT32)
        network.optimise_layout()
        mesh, kernel = mesh_of(ParallelLayout.parse(self.layout), self.rank), load_kernel(self.kernel)
        text = torch.empty(TRUE_ROWS, spec.transformer.text_dim, device=DEVICE, dtype=self.dtype)
        keys = network.text_keys(text, spec.max_text_tokens, image_LC=_image_tokens(spec))
        latents = torch.empty(1, *self.size.latents(spec), device=DEVICE)
        seen = torch.empty(1, spec.transformer.in_channels, *latents.shape[2:], device=DEVICE)
        times = torch.empty(2 if self.with_picture else 1, device=DEVICE)
        with Watch() as watch:
            steps = [
                network.steps(seen, times, keys, kernel, mesh, self.num_slices) for _ in range(1 + self.take_turns)
            ]
            made = in_turns(*steps)
        assert all(each.shape == latents.shape and each.dtype == self.dtype for each in made)
        return watch.seen


@dataclass(frozen=True)
class Decode:
    """The first frame of a video, and the portion after it, through the decoder on one rank."""

    size: Size
    portion: int = 1
    num_ranks: int = 1
    dtype: torch.dtype = torch.float32
    rank: int = 0
    model: str = REAL.name
    frames_at_once: int = 0
    host_history: int = 0

    @property
    def placement(self) -> Placement:
        """Where its history is, and how many frames go at a time."""
        return Placement(host_history=self.host_history, frames_at_once=self.frames_at_once)

    def run(self) -> Seen:
        spec = known_model(self.model)
        vae = _vae(spec, self.dtype)
        vae.exchange = AtOnce()
        z, num_latents, rows, columns = self.size.latents(spec)
        bands = Bands(rows, mesh_of(ParallelLayout(ring=self.num_ranks), self.rank).world)
        latents = torch.empty(z, num_latents, bands.size, columns, device=DEVICE)
        little = vae.start_decoding(Bands.alone(2), 2, 1, DEVICE)
        vae.decode_next(latents[:, :1, :2, :2], little, first=True)  # makes weights
        with Watch() as watch:
            stream = vae.start_decoding(bands, columns, num_latents, DEVICE, self.placement)
            vae.decode_next(latents[:, :1], stream, first=True)
            vae.decode_next(latents[:, 1 : 1 + self.portion], stream, first=False)
            stream.close()
        return watch.seen


@dataclass(frozen=True)
class Encode:
    """A first frame through the encoder on one rank, or with `goes_on` the beginning of a video: a portion more."""

    size: Size
    num_ranks: int = 1
    dtype: torch.dtype = torch.float32
    rank: int = 0
    model: str = REAL.name
    goes_on: bool = False

    def run(self) -> Seen:
        spec = known_model(self.model)
        vae = _vae(spec, self.dtype)
        bands = Bands(self.size.latents(spec)[2], mesh_of(ParallelLayout(ring=self.num_ranks), self.rank).world)
        num_frames = 1 + self.goes_on * spec.frame_multiple
        rows = bands.size * spec.vae.scale_factor_spatial
        frames = torch.empty(num_frames, rows, self.size.width, 3, device=DEVICE)
        with Watch() as watch:
            made = vae.encode(frames, bands)
        assert made.shape == (spec.vae.z_dim, 1 + self.goes_on, bands.size, self.size.latents(spec)[3])
        return watch.seen


@dataclass(frozen=True)
class Prompts:
    """Two prompts of all tokens that there may be through some of the text encoder, or a rank's layers of that."""

    num_ranks: int = 1
    rank: int = 0

    def run(self) -> Seen:
        tokenizer = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
        tokenizer.pre_tokenizer = Whitespace()
        few = msgspec.structs.asdict(REAL.text_encoder) | {"num_layers": 2 * LAYERS}
        axis = mesh_of(ParallelLayout(ring=self.num_ranks), self.rank).world
        encoder = TextEncoder(Umt5Config(**few), tokenizer, REAL.max_text_tokens, axis)
        encoder.prepare(DEVICE, torch.bfloat16)
        with Watch() as watch:
            made = encoder.encode(2 * ["a " * 600])
        assert [each.shape for each in made] == 2 * [(REAL.max_text_tokens, REAL.text_encoder.d_model)]
        return watch.seen


def case_name(case: Any) -> str:
    """What of a case is not as usual."""
    told = [(field.name, getattr(case, field.name)) for field in fields(case)]
    unusual = [(name, value) for (name, value), field in zip(told, fields(case), strict=True) if value != field.default]
    return "-".join(f"{name}={value}".replace("torch.", "").replace("size=", "") for name, value in unusual)


def _image_tokens(spec: ModelSpec) -> torch.Tensor | None:
    """Tokens of a picture, for a model that attends to any."""
    if spec.image_encoder is None:
        return None
    assert isinstance(spec.transformer, TransformerSpec) and spec.transformer.image_dim
    return torch.empty(spec.image_encoder.num_tokens, spec.transformer.image_dim, device=DEVICE)


def _vae(spec: ModelSpec, dtype: torch.dtype) -> WanVae:
    assert isinstance(spec.vae, VaeSpec)
    with torch.device("meta"):
        vae = WanVae(spec.vae)
    materialise(vae, DEVICE, dtype)
    vae.optimise_layout()
    return vae
