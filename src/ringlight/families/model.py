"""ModelSpec: all that is known of a model without reading a weight. Arithmetic alone, no torch.

A model is a diffusion transformer over the latents of a causal video autoencoder, told what to make by a text encoder.
What of it plans and requests need stands in the protocols here; each family has its own numbers behind them.
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Protocol

import msgspec

from ringlight.core.geometry import VideoScales
from ringlight.core.layout import ParallelLayout
from ringlight.core.plan import Placement
from ringlight.core.portions import most_tokens
from ringlight.core.scheduler import NUM_TRAIN_TIMESTEPS, SchedulerSpec
from ringlight.families.layers.decoder import DecoderLayers
from ringlight.families.layers.encoder import EncoderLayers
from ringlight.families.layers.matrix import TextLayers, TransformerLayers

Positive = Annotated[int, msgspec.Meta(ge=1)]  # a number of channels, layers and the like


class TransformerNumbers(Protocol):
    """The numbers of a diffusion transformer."""

    @property
    def patch_size(self) -> tuple[int, int, int]: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def attention_head_dim(self) -> int: ...
    @property
    def inner_dim(self) -> int: ...
    @property
    def in_channels(self) -> int: ...
    @property
    def out_channels(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def rope_max_seq_len(self) -> int: ...
    @property
    def layers(self) -> TransformerLayers: ...

    def forward_flops(self, num_tokens: int) -> float:
        """Floating-point operations of one forward: matrix products and self-attention (text and time left out)."""

    def elementwise_bytes(self, on_cpu: bool, itemsize: int) -> float:
        """Bytes that all but the products of a block read and write for one token."""

    def peak_bytes(
        self, num_tokens: int, layout: ParallelLayout, on_cpu: bool, itemsize: int, num_slices: int, forwards: int
    ) -> int:
        """Peak bytes of a rank's forward, beside weights and the keys of texts.

        `forwards`: 2 if two alternate. `num_slices` are those of data that is sent ahead, and `itemsize` that of
        products.
        """


class VaeNumbers(VideoScales, Protocol):
    """The numbers of a video autoencoder, causal in time."""

    @property
    def decoder(self) -> DecoderLayers: ...
    @property
    def encoder(self) -> EncoderLayers: ...

    def decoding_elements(
        self,
        latent_size: tuple[int, int, int],
        num_ranks: int,
        portion: int,
        on_cpu: bool,
        itemsize: int,
        placement: Placement | None = None,
    ) -> int:
        """Peak elements of a rank's decoder, beside weights that stay and latents.

        `latent_size` is (frames, rows, columns) of the latents, of which it takes `portion` frames at a time;
        `itemsize` is that of its dtype. With a `placement` the history that lies on the host is not counted, and
        weights that come are.
        """

    def encoding_elements(self, latent_size: tuple[int, int, int], num_ranks: int, on_cpu: bool, itemsize: int) -> int:
        """Peak elements of a rank's encoder, beside weights and pictures.

        `latent_size` is (frames, rows, columns) of the latents, of which it makes a frame at a time; `itemsize` is that
        of its dtype.
        """


class TextNumbers(Protocol):
    """The numbers of a text encoder."""

    @property
    def d_model(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def layers(self) -> TextLayers: ...

    def peak_elements(self, num_tokens: int, num_prompts: int) -> int:
        """Peak elements of encoding beside weights.

        The prompts, each of `num_tokens` tokens, go through a layer one after another.
        """


class ImageNumbers(Protocol):
    """The numbers of an encoder whose tokens tell the transformer of a picture."""

    @property
    def num_tokens(self) -> int: ...
    @property
    def parameters(self) -> int: ...
    @property
    def flops(self) -> float: ...
    @property
    def peak_elements(self) -> int: ...


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A model. `family` is the name of its folder in ringlight/families.

    With a `boundary_ratio` it has two transformers of the same numbers: an expert for noise from this share of all
    timesteps on, and one for what is below. With an `image_encoder` the transformer also attends to a picture's tokens.
    """

    family: str
    name: str
    transformer: TransformerNumbers
    vae: VaeNumbers
    text_encoder: TextNumbers
    scheduler: SchedulerSpec
    max_text_tokens: int = 512
    takes_picture: bool = True
    needs_picture: bool = False
    takes_last_picture: bool = False
    needs_last_picture: bool = False
    boundary_ratio: float | None = None
    image_encoder: ImageNumbers | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all numbers of the model, whatever its folder is called: equal ones mean equal work."""
        said = {name: value for name in NUMBERS if (value := getattr(self, name)) is not None}
        return hashlib.sha256(msgspec.json.encode(said | {"name": ""}, order="sorted")).hexdigest()

    @property
    def sees_condition(self) -> bool:
        """Whether a picture stands beside the latents as channels of their own, for all frames of the video.

        Otherwise it takes the place of the first latent frame.
        """
        return self.transformer.in_channels != self.transformer.out_channels

    @property
    def has_experts(self) -> bool:
        """Whether it has two transformers, one for high noise and one for low."""
        return self.boundary_ratio is not None

    @property
    def boundary(self) -> float:
        """Time above which the first expert predicts; all times are from 0 on."""
        return (self.boundary_ratio or 0.0) * NUM_TRAIN_TIMESTEPS

    @property
    def num_experts(self) -> int:
        """Transformers, of which one is at work at a time."""
        return 2 if self.has_experts else 1

    @property
    def size_multiple(self) -> tuple[int, int]:
        """Height and width must be multiples of these: the VAE's scale x the transformer's patch (32, 32)."""
        _, patch_height, patch_width = self.transformer.patch_size
        return (self.vae.scale_factor_spatial * patch_height, self.vae.scale_factor_spatial * patch_width)

    @property
    def frame_multiple(self) -> int:
        """Frames are a multiple of this, plus one (4k + 1)."""
        return self.vae.scale_factor_temporal

    @property
    def max_positions(self) -> int:
        """Tokens along any side that the transformer tells apart."""
        return self.transformer.rope_max_seq_len

    @property
    def most_pixels(self) -> int:
        """Pixels of the largest frame that every tensor of the decoder has room for.

        The encoder counts too if a whole video goes through it.
        """
        decoded = self.vae.decoder.most_pixels
        encoded = self.vae.encoder.most_latent_pixels * self.vae.scale_factor_spatial**2
        return min(decoded, encoded) if self.sees_condition else decoded

    @property
    def most_tokens(self) -> int:
        """Tokens of the longest sequence that every tensor of the transformer has room for."""
        return most_tokens(self.transformer.inner_dim)

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


# What a fingerprint is of; None is left out, as it is not told of models before it was known.
NUMBERS = ("transformer", "vae", "text_encoder", "scheduler", "max_text_tokens", "boundary_ratio", "image_encoder")
