"""ModelSpec: what a checkpoint's own JSON says about the model. Arithmetic only, no torch.

Layout of a Wan2.2-TI2V checkpoint as Diffusers writes it: `model_index.json` beside one folder each for
`transformer`, `vae`, `text_encoder`, `tokenizer` and `scheduler`, with a `config.json` in each network's folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from ringlight.core import foreign
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.hub import model_name
from ringlight.core.presence import broken_link, require_file, require_files

MAX_LAYERS = 1000
INDEX = "model_index.json"
JSON_FILES = (
    INDEX,
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
)

Positive = Annotated[int, msgspec.Meta(ge=1)]


class TransformerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """`transformer/config.json` of a WanTransformer3DModel."""

    patch_size: tuple[Positive, Positive, Positive]
    num_attention_heads: Positive
    attention_head_dim: Positive
    in_channels: Positive
    out_channels: Positive
    text_dim: Positive
    freq_dim: Positive
    ffn_dim: Positive
    num_layers: Positive
    cross_attn_norm: bool = True
    qk_norm: str | None = "rms_norm_across_heads"
    eps: float = 1e-6
    rope_max_seq_len: Positive = 1024
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None

    @property
    def inner_dim(self) -> int:
        """Channels of the hidden states: heads x head width."""
        return self.num_attention_heads * self.attention_head_dim

    def forward_flops(self, num_tokens: int) -> float:
        """Floating-point operations of one forward: matrix products and self-attention (text and time left out)."""
        products = 2 * num_tokens * (6 * self.inner_dim**2 + 2 * self.inner_dim * self.ffn_dim)
        return float(self.num_layers * (products + 4 * num_tokens**2 * self.inner_dim))


class VaeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """`vae/config.json` of an AutoencoderKLWan of the 2.2 kind (residual, patched)."""

    base_dim: Positive
    z_dim: Positive
    dim_mult: list[Positive]
    num_res_blocks: Positive
    temperal_downsample: list[bool]
    latents_mean: list[float]
    latents_std: list[Annotated[float, msgspec.Meta(gt=0)]]
    in_channels: Positive
    out_channels: Positive
    patch_size: Positive
    scale_factor_temporal: Positive
    scale_factor_spatial: Positive
    decoder_base_dim: Positive | None = None
    is_residual: bool = False
    attn_scales: list[float] = []

    @property
    def decoder_dim(self) -> int:
        return self.decoder_base_dim or self.base_dim


class TextEncoderSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of `text_encoder/config.json` that planning needs."""

    d_model: Positive
    d_ff: Positive
    num_heads: Positive
    d_kv: Positive
    num_layers: Positive
    vocab_size: Positive

    def flops(self, num_tokens: int) -> float:
        """Floating-point operations of the matrix products for one prompt (the feed-forward is gated)."""
        inner = self.num_heads * self.d_kv
        return float(self.num_layers * 2 * num_tokens * (4 * self.d_model * inner + 3 * self.d_model * self.d_ff))


class SchedulerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """`scheduler/scheduler_config.json`: the class diffusers must build, and the key that holds the flow shift."""

    config: dict[str, Any]
    class_name: str
    flow_shift: float
    flow_shift_key: str

    def num_calls(self, num_steps: int) -> int:
        """How often the network predicts in so many steps: Heun's method asks it twice a step, but once in the last."""
        return 2 * num_steps - 1 if "Heun" in self.class_name else num_steps


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a model without reading a weight."""

    name: str
    transformer: TransformerSpec
    vae: VaeSpec
    text_encoder: TextEncoderSpec
    scheduler: SchedulerSpec
    max_text_tokens: int = 512

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all numbers of the model, whatever its folder is called: equal ones mean equal work."""
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, name=""), order="sorted")).hexdigest()

    @property
    def size_multiple(self) -> tuple[int, int]:
        """Height and width must be multiples of these: the VAE's scale x the transformer's patch (32, 32)."""
        _, patch_height, patch_width = self.transformer.patch_size
        return (self.vae.scale_factor_spatial * patch_height, self.vae.scale_factor_spatial * patch_width)

    @property
    def frame_multiple(self) -> int:
        """Frames are a multiple of this, plus one (4k + 1)."""
        return self.vae.scale_factor_temporal

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(channels, latent frames, latent height, latent width) of a video of this size in pixels."""
        return (
            self.vae.z_dim,
            (num_frames - 1) // self.vae.scale_factor_temporal + 1,
            height // self.vae.scale_factor_spatial,
            width // self.vae.scale_factor_spatial,
        )

    def token_grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Tokens along time, height and width; their product is the length of the sequence."""
        _, *latent_size = self.latent_shape(num_frames, height, width)
        time, rows, columns = (n // p for n, p in zip(latent_size, self.transformer.patch_size, strict=True))
        return (time, rows, columns)

    def num_tokens(self, num_frames: int, height: int, width: int) -> int:
        """Length of the sequence that the transformer sees (704x1280x121 -> 27,280)."""
        return math.prod(self.token_grid(num_frames, height, width))

    @classmethod
    def read(cls, folder: Path) -> ModelSpec:
        """Read a checkpoint folder's JSON. Raises InvalidCheckpoint with the file and the remedy in one line."""
        _require_folder(folder)
        require_files(folder, JSON_FILES)
        index = read_json(folder / INDEX)
        _require_wan_ti2v(folder, index)
        transformer = _decode(folder / "transformer" / "config.json", TransformerSpec)
        vae = _decode(folder / "vae" / "config.json", VaeSpec)
        text_encoder = _decode(folder / "text_encoder" / "config.json", TextEncoderSpec)
        _require_supported(folder, transformer, vae, text_encoder)
        return cls(
            name=model_name(folder, index.get("_name_or_path")),
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            scheduler=_read_scheduler(folder / "scheduler" / "scheduler_config.json"),
        )


def _require_folder(folder: Path) -> None:
    """Raise InvalidCheckpoint, which says what it is instead, unless a checkpoint in Diffusers layout is there."""
    if os.path.isdir(folder):  # unlike Path.is_dir, False for names that no file system takes
        if not os.access(folder, os.R_OK | os.X_OK):
            raise InvalidCheckpoint(f"{folder}: not readable by the user that this process runs as")
        if not os.path.lexists(folder / INDEX) and (found := foreign.name_of_folder(folder)):
            raise InvalidCheckpoint(f"{folder}: {found}")
    elif os.path.isfile(folder):
        raise InvalidCheckpoint(f"{folder}: no such folder: it is {foreign.name_of_file(folder)}")
    else:
        said = broken_link(folder) or "no such folder"
        raise InvalidCheckpoint(f"{folder}: {said}; --model-path names a checkpoint in Diffusers layout")


SpecType = TypeVar("SpecType", bound=msgspec.Struct)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint. Raises InvalidCheckpoint naming the file and the place."""
    require_file(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, too long a number
        raise InvalidCheckpoint(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidCheckpoint(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _decode(path: Path, kind: type[SpecType]) -> SpecType:
    try:
        return msgspec.convert(read_json(path), kind)
    except msgspec.ValidationError as error:
        raise InvalidCheckpoint(f"{path}: {error}") from None


def _require_wan_ti2v(folder: Path, index: dict[str, Any]) -> None:
    """Refuse what this pipeline would run wrongly: another architecture, or Wan models of another kind."""
    found = index.get("_class_name")
    if found not in ("WanPipeline", "WanImageToVideoPipeline"):
        raise InvalidCheckpoint(f"{folder}: holds a {found}, not a WanPipeline; Ringlight runs Wan2.2-TI2V checkpoints")
    if not index.get("expand_timesteps") or index.get("boundary_ratio") is not None:
        raise InvalidCheckpoint(
            f"{folder}: a Wan checkpoint of another kind (expand_timesteps={index.get('expand_timesteps')}, "
            f"boundary_ratio={index.get('boundary_ratio')}); Ringlight runs the single-transformer Wan2.2-TI2V"
        )


def _require_supported(folder: Path, transformer: TransformerSpec, vae: VaeSpec, text_encoder: TextEncoderSpec) -> None:
    wrong = []
    if transformer.image_dim is not None or transformer.added_kv_proj_dim is not None:
        wrong.append("transformer: image embeddings (image_dim, added_kv_proj_dim) are of Wan2.1 I2V")
    if transformer.qk_norm != "rms_norm_across_heads":
        wrong.append(f"transformer: qk_norm must be rms_norm_across_heads, not {transformer.qk_norm}")
    if not transformer.cross_attn_norm:
        wrong.append("transformer: cross_attn_norm must be true")
    if transformer.patch_size[0] != 1:
        wrong.append(f"transformer: patch_size must be 1 in time, not {transformer.patch_size[0]}")
    if not vae.is_residual or vae.attn_scales:
        wrong.append("vae: must be of the residual 2.2 kind without attn_scales")
    if transformer.in_channels != vae.z_dim or transformer.out_channels != vae.z_dim:
        wrong.append(f"transformer channels ({transformer.in_channels}) differ from the vae's z_dim ({vae.z_dim})")
    if not len(vae.latents_mean) == len(vae.latents_std) == vae.z_dim:
        wrong.append(f"vae: latents_mean and latents_std must have z_dim ({vae.z_dim}) numbers")
    if transformer.text_dim != text_encoder.d_model:
        wrong.append(f"transformer: text_dim ({transformer.text_dim}) is not the text encoder's {text_encoder.d_model}")
    if transformer.attention_head_dim % 2 or transformer.freq_dim % 2:
        wrong.append("transformer: attention_head_dim and freq_dim must be even")
    if max(transformer.num_layers, vae.num_res_blocks, len(vae.dim_mult)) > MAX_LAYERS:
        wrong.append(f"more than {MAX_LAYERS} layers")
    if vae.in_channels != 3 * vae.patch_size**2 or vae.out_channels != vae.in_channels:
        wrong.append(f"vae: in_channels and out_channels must be 3 x patch_size^2 ({3 * vae.patch_size**2})")
    if vae.scale_factor_spatial != vae.patch_size * 2 ** (len(vae.dim_mult) - 1):
        wrong.append(f"vae: scale_factor_spatial ({vae.scale_factor_spatial}) does not follow from dim_mult")
    if vae.scale_factor_temporal != 2 ** sum(vae.temperal_downsample):
        wrong.append(f"vae: scale_factor_temporal ({vae.scale_factor_temporal}) does not follow from its downsampling")
    if len(vae.temperal_downsample) != len(vae.dim_mult) - 1:
        wrong.append("vae: temperal_downsample must be one shorter than dim_mult")
    if any(a < b for a, b in zip(vae.dim_mult[1:], vae.dim_mult, strict=False)):
        wrong.append("vae: dim_mult must not fall")
    if wrong:
        raise InvalidCheckpoint(f"{folder}: not a Wan2.2-TI2V checkpoint: " + "; ".join(wrong))


def _read_scheduler(path: Path) -> SchedulerSpec:
    config = read_json(path)
    class_name = config.get("_class_name")
    if not isinstance(class_name, str):
        raise InvalidCheckpoint(f"{path}: _class_name names no scheduler")
    key = "flow_shift" if "flow_shift" in config else "shift"
    shift = config.get(key)
    if isinstance(shift, bool) or not isinstance(shift, (int, float)) or not (math.isfinite(shift) and shift > 0):
        raise InvalidCheckpoint(f"{path}: needs a positive flow_shift (or shift), found {shift!r}")
    return SchedulerSpec(config=config, class_name=class_name, flow_shift=float(shift), flow_shift_key=key)
