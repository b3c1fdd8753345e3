"""The VAEs of Wan2.1 and Wan2.2 (AutoencoderKLWan of diffusers is the reference for their numbers), as a stream.

Activations are THWC: T frames, H rows, W columns, C channels; latents are ZTHW with Z = z_dim channels. The network is
causal in time, so latent frames may be decoded, and frames encoded, one by one or several at a time. Every rank works
on its band of rows; exact, because neighbours exchange all that their convolutions see of each other.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ringlight.core.plan import Placement
from ringlight.core.portions import MAX_ELEMENTS, takes_pairs
from ringlight.families.layers.decoder import DecoderLayers, Visit
from ringlight.families.layers.encoder import EncoderLayers
from ringlight.families.wan.networks.causal import CausalConv, RmsNorm, Stream, convs_with_history, norm_silu_conv
from ringlight.families.wan.networks.hosted import HostedStream
from ringlight.families.wan.networks.resample import DownBlock, UpBlock
from ringlight.families.wan.networks.residual import MidBlock
from ringlight.families.wan.work.vae import VaeSpec
from ringlight.models.finite import extremes
from ringlight.parallel.collective import collective
from ringlight.parallel.halo import Bands
from ringlight.residency.exchange import Exchange
from ringlight.residency.part import WeightPart
from ringlight.residency.weights import ALWAYS_THERE, Weights


class VaeEncoder(nn.Module):
    """Frames in, moments of latents out."""

    def __init__(self, layers: EncoderLayers) -> None:
        super().__init__()
        self.conv_in = CausalConv(layers.conv_in)
        self.down_blocks = nn.ModuleList(map(DownBlock, layers.levels))
        self.mid_block = MidBlock(layers.mid)
        self.norm_out = RmsNorm(layers.conv_out.inputs)
        self.conv_out = CausalConv(layers.conv_out)

    @collective
    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.conv_in(x, stream)
        for block in self.down_blocks:
            x = block(x, stream)
        return norm_silu_conv(self.mid_block(x, stream), self.norm_out, self.conv_out, stream)


class VaeDecoder(nn.Module):
    """Latent frames in, patched frames out."""

    def __init__(self, layers: DecoderLayers) -> None:
        super().__init__()
        self.layers = layers
        self.conv_in = CausalConv(layers.conv_in)
        self.mid_block = MidBlock(layers.mid)
        self.up_blocks = nn.ModuleList(map(UpBlock, layers.levels))
        self.norm_out = RmsNorm(layers.conv_out.inputs)
        self.conv_out = CausalConv(layers.conv_out)
        self.weights: Weights = ALWAYS_THERE

    @property
    def stages(self) -> list[nn.Module]:
        """Networks of each stage of `layers`."""
        before = nn.ModuleList([self.conv_in, self.mid_block])
        return [before, *self.up_blocks, self.conv_out]

    def on_host(self, host_levels: int) -> set[CausalConv]:
        """Convolutions whose history lies on the host, if that of so many of the last levels does."""
        stages = enumerate(self.stages)
        hosted = [part for stage, part in stages if self.layers.on_host(stage, host_levels)]
        return {conv for part in hosted for conv in convs_with_history(part)}

    def forward(self, x: Tensor, stream: Stream, first: bool) -> Tensor:
        layers, (_, rows, columns, _) = self.layers, x.shape
        at_most = layers.frames_at_once(
            rows,
            columns,
            len(x),
            stream.max_elements,
            asked=stream.frames_at_once,
            in_pairs=takes_pairs(x.device.type == "cpu", x.dtype == torch.float32),
        )
        visits = list(layers.visits(len(x), first, at_most))
        stream.begin(self._order(visits, first))
        return torch.cat(list(self._run(x, visits, stream, first, at_most)))

    def _order(self, visits: Sequence[Visit], first: bool) -> list[tuple[CausalConv, int]]:
        """The convolutions with history that run in these visits, and how many frames each sees."""
        convs = [
            [conv for conv in convs_with_history(part) if not (first and conv.skips_first)] for part in self.stages
        ]
        return [(conv, visit.frames) for visit in visits for conv in convs[visit.stage]]

    def _run(self, x: Tensor, visits: Sequence[Visit], stream: Stream, first: bool, at_most: int) -> Iterator[Tensor]:
        """Yield patched frames of `x`, part by part. A stage's input is freed before the next stage runs."""
        waiting: list[deque[Tensor]] = [deque() for _ in self.stages]
        waiting[0].append(x)
        for stage, frames in visits:
            part = waiting[stage].popleft()
            assert len(part) == frames, "stages make as many frames as their layers say"
            made = self._through(stage, part, stream, first)
            del part
            if stage == len(self.up_blocks) + 1:
                yield made
            else:
                waiting[stage + 1].extend(made.split(at_most))
            del made

    def _through(self, stage: int, x: Tensor, stream: Stream, first: bool) -> Tensor:
        """Run frames through one stage, with its weights. Those of the first are there, for more comes before it."""
        if stage:
            self.weights.take(stage)
        if stage == 0:
            made: Tensor = self.mid_block(self.conv_in(x, stream), stream)
        elif stage <= len(self.up_blocks):
            made = self.up_blocks[stage - 1](x, stream, first)
        else:
            made = norm_silu_conv(x, self.norm_out, self.conv_out, stream)
        self.weights.done(stage)
        return made


class VaeParts(NamedTuple):
    """Parts of a VAE that are brought to the device and dropped together.

    They are the encoder, and of the decoder what stands before its levels, each level, and what stands after them.
    """

    encoder: WeightPart
    decoder: list[WeightPart]


class WanVae(nn.Module):
    """Pictures to normalised latents and back."""

    def __init__(self, spec: VaeSpec) -> None:
        super().__init__()
        self.spec = spec
        encoder, decoder = spec.encoder, spec.decoder
        self.encoder = VaeEncoder(encoder)
        self.quant_conv = CausalConv(encoder.quant)
        self.decoder = VaeDecoder(decoder)
        self.post_quant_conv = CausalConv(decoder.post_quant)
        self.exchange: Exchange | None = None  # where history is kept on the host
        self._moments: tuple[Tensor, Tensor] | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.post_quant_conv.weight.dtype

    def parts(self) -> VaeParts:
        """Parts of the network that are moved together, once it has its dtypes."""
        decoder = self.decoder
        modules: list[list[nn.Module]] = [[self.post_quant_conv, decoder.conv_in, decoder.mid_block]]
        modules += [[block] for block in decoder.up_blocks]
        modules += [[decoder.norm_out, decoder.conv_out]]
        return VaeParts(
            encoder=WeightPart("vae, encoder", [self.encoder, self.quant_conv], needs_layout=True),
            decoder=[
                WeightPart(f"vae, decoder {number}", each, needs_layout=True) for number, each in enumerate(modules)
            ],
        )

    def checkpoint_slots(self, only: Container[Tensor] | None = None) -> dict[str, Tensor]:
        """Destination of each tensor of the checkpoint: its name -> a view of a parameter in `only` (None: all)."""
        naming = Naming(self.spec)
        return dict(
            naming.slot_of(name, parameter.data)
            for name, parameter in self.named_parameters()
            if only is None or parameter in only
        )

    def optimise_layout(self) -> None:
        """Lay the weights of convolutions out as they are used. Call once, after loading."""
        for module in self.modules():
            if isinstance(module, CausalConv):
                module.lay_out()

    def encode(self, frames_FHWC: Tensor, bands: Bands | None = None) -> Tensor:
        """Frames (F, H, W, 3) in [-1, 1], F = 4k+1 -> the mode of the posterior, normalised: (z, T, h, w), float32.

        H and h are this rank's rows of `bands`: all rows where there are none. Not for a rank without rows.
        """
        stride, num_frames = self.spec.scale_factor_temporal, len(frames_FHWC)
        rows, columns = (size // self.spec.scale_factor_spatial for size in frames_FHWC.shape[1:3])
        stream = self.start_encoding(bands or Bands.alone(rows), columns, num_frames, frames_FHWC.device)
        starts = range(1 - stride, num_frames, stride)
        return torch.cat(
            [self.encode_next(frames_FHWC[max(0, start) : start + stride], stream) for start in starts], dim=1
        )

    def start_encoding(self, bands: Bands, columns: int, num_frames: int, device: torch.device) -> Stream:
        """Start a stream for `encode_next`: so many frames whose latents have these rows and columns."""
        like = torch.empty(0, dtype=self.dtype, device=device)
        return Stream(convs_with_history(self.encoder), bands, columns, like, one_frame=num_frames == 1)

    def encode_next(self, frames_FHWC: Tensor, stream: Stream) -> Tensor:
        """Encode the next frames to a latent frame (z, 1, h, w), as `encode` has it.

        The very first frame comes alone, later ones as many at a time as become a latent frame.
        """
        patched = _patchify(frames_FHWC.to(self.dtype), self.spec.patch)
        moments_THWC = self.quant_conv(self.encoder(patched, stream), stream)
        mode_THWZ = moments_THWC[..., : self.spec.z_dim].float()
        mean, std = self._statistics(mode_THWZ.device)
        normalised: Tensor = (mode_THWZ - mean) / std
        return normalised.permute(3, 0, 1, 2).contiguous()

    def start_decoding(
        self,
        bands: Bands,
        columns: int,
        num_latents: int,
        device: torch.device,
        placement: Placement | None = None,
        max_elements: int = MAX_ELEMENTS,
    ) -> Stream:
        """Start a stream for `decode_next`: so many latent frames of so many rows and columns.

        It is to be closed at its end. If history lies on the host, only the last stream that was started may continue.
        """
        kept, like = placement or Placement(), torch.empty(0, dtype=self.dtype, device=device)
        convs, one_frame, at_once = convs_with_history(self.decoder), num_latents == 1, kept.frames_at_once
        if not kept.host_history or one_frame or not bands.size:
            return Stream(convs, bands, columns, like, one_frame, max_elements, at_once)
        hosted = self.decoder.on_host(kept.host_history)
        assert self.exchange is not None, f"of {device} the host is the same memory"
        return HostedStream(convs, hosted, bands, columns, like, self.exchange, max_elements, at_once)

    def decode_next(self, latents_ZTHW: Tensor, stream: Stream, first: bool) -> Tensor:
        """Decode the next normalised latents to frames (F, H, W, 3) in [-1, 1], in the VAE's dtype: this rank's rows.

        The very first latent frame comes alone (`first`) and gives one frame; each later one gives four, and any
        number of them may come at a time. What clamping would hide of NaN and infinity stands in the stream's extremes.
        """
        mean, std = self._statistics(latents_ZTHW.device)
        latents_THWZ = (latents_ZTHW.permute(1, 2, 3, 0).float() * std + mean).to(self.dtype).contiguous()
        self.decoder.weights.take(0)
        patched = self.decoder(self.post_quant_conv(latents_THWZ, stream), stream, first)
        stream.extremes.append(extremes(patched))
        return _unpatchify(patched, self.spec.patch).clamp_(-1.0, 1.0)

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation of latents, brought to the device once: a copy from the host waits for all its work."""
        if self._moments is None:
            mean, std = (
                torch.tensor(values, dtype=torch.float32, device=device)
                for values in (self.spec.latents_mean, self.spec.latents_std)
            )
            self._moments = mean, std
        return self._moments


def _patchify(frames_FHWC: Tensor, patch: int) -> Tensor:
    """Blocks of patch x patch pixels become channels: (F, H/p, W/p, 3 x p x p), the column within a block first."""
    frames, height, width, channels = frames_FHWC.shape
    parts = frames_FHWC.reshape(frames, height // patch, patch, width // patch, patch, channels)
    return parts.permute(0, 1, 3, 5, 4, 2).reshape(frames, height // patch, width // patch, -1)


def _unpatchify(patched: Tensor, patch: int) -> Tensor:
    """The inverse of `_patchify`."""
    frames, height, width, channels = patched.shape
    parts = patched.view(frames, height, width, channels // patch**2, patch, patch)
    return parts.permute(0, 1, 5, 2, 4, 3).reshape(frames, height * patch, width * patch, -1)


class Naming:
    """Checkpoint's names for our parameters.

    If no shortcut passes a level, an upsampler stands in a list of one, and all blocks of the encoder's levels in a
    single list.
    """

    def __init__(self, spec: VaeSpec) -> None:
        self._is_flat = not spec.is_residual
        self._each = spec.num_res_blocks + 1  # blocks of a level of the encoder

    def slot_of(self, name: str, parameter: Tensor) -> tuple[str, Tensor]:
        """The checkpoint's name for one of our parameters, with a view of its shape there."""
        if name.endswith("gamma"):
            axes = 2 if ".attentions." in name else 3
            parameter = parameter.view(-1, *([1] * axes))
        elif name.endswith(("to_qkv.weight", "proj.weight")):
            parameter = parameter.view(*parameter.shape, 1, 1)
        for sampler in (".upsampler.", ".downsampler."):
            if sampler in name and ".time_conv." not in name:
                name = name.replace(sampler, f"{sampler}resample.1.")
        return self._flat(name) if self._is_flat else name, parameter

    def _flat(self, name: str) -> str:
        name = name.replace(".upsampler.", ".upsamplers.0.")
        found = re.fullmatch(r"encoder\.down_blocks\.(\d+)\.(?:resnets\.(\d+)|downsampler)\.(.*)", name)
        if found is None:
            return name
        level, block, rest = found.groups()
        place = int(level) * self._each + (self._each - 1 if block is None else int(block))
        return f"encoder.down_blocks.{place}.{rest}"
