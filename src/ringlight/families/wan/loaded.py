"""WanNetworks: the networks of a checkpoint with their weights, all on the device, or brought there while they work."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch

from ringlight.core.checkpoint import TOKENIZER, Checkpoint
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidCheckpoint, OutOfMemory
from ringlight.core.host import LEFT_BYTES, available_bytes, left_in_files, memory_bytes
from ringlight.core.lora import Lora, LoraFile
from ringlight.core.plain import in_words, plain
from ringlight.core.plan import Placement
from ringlight.core.report import GIB, AdaptedReport
from ringlight.core.weights import STEMS, TRANSFORMERS
from ringlight.families.model import ModelSpec
from ringlight.families.wan.adapted import AdaptedTransformer, Refill, reported
from ringlight.families.wan.headers import TABLE, TIED_NAMES, in_our_names
from ringlight.families.wan.networks.image_encoder import ImageEncoder
from ringlight.families.wan.networks.text_encoder import TextEncoder, load_tokenizer, read_umt5
from ringlight.families.wan.networks.transformer import TransformerParts, WanTransformer
from ringlight.families.wan.networks.vae import VaeDecoder, VaeParts, WanVae
from ringlight.families.wan.work.image_encoder import ImageEncoderSpec
from ringlight.families.wan.work.text_encoder import TextEncoderSpec
from ringlight.families.wan.work.transformer import TransformerSpec
from ringlight.families.wan.work.vae import VaeSpec
from ringlight.kernels.widening import widened
from ringlight.models.adapters import read_adapters
from ringlight.models.loading import (
    Extremes,
    WeightFiles,
    fill_random,
    here,
    load_weights,
    materialise,
    read_weights,
    require_match,
)
from ringlight.parallel.mesh import Axis
from ringlight.residency.feed import spread
from ringlight.residency.lane import Lane
from ringlight.residency.part import WeightPart
from ringlight.residency.residency import Residency, at_work
from ringlight.residency.shelf import Shelf
from ringlight.residency.source import PartlyInFiles, WeightSource
from ringlight.residency.weights import ALWAYS_THERE, Weights

Network = WanTransformer | WanVae | TextEncoder | ImageEncoder
PINNED_WEIGHTS = 0.75  # of what may be page-locked, half of the host's memory; the rest is for histories

logger = logging.getLogger(__name__)


class WanParts(NamedTuple):
    """Parts of the networks that are brought to the device and dropped, if their weights lie on the host."""

    image_encoder: list[WeightPart]
    experts: list[TransformerParts]
    vae: VaeParts


class RankShare(NamedTuple):
    """Network, its folder's name, the parts of it that this rank computes with, and bytes of the whole network."""

    network: Network
    name: str
    parts: list[WeightPart]
    num_bytes: int


class WanNetworks:
    """Transformer or experts, VAE and text encoder of a checkpoint, on one device.

    Once loaded to the host, a network is on the device within the context of its work alone (`denoising` and the like),
    and `placement` says how much of it. Loaded to the device they are there always, and a placement is none.
    `loaded_bytes` is what this rank has loaded, as it lies in memory; `left_to_pin_bytes` what all ranks of this
    machine together may still page-lock of the host's.
    """

    def __init__(
        self, config: EngineConfig, checkpoint: Checkpoint, spec: ModelSpec, device: torch.device, world: Axis | None
    ) -> None:
        """Make the networks without weights; of the text encoder this rank's part in `world` (None: a single rank)."""
        assert isinstance(spec.transformer, TransformerSpec)
        assert isinstance(spec.vae, VaeSpec)
        self._config, self._checkpoint, self._device = config, checkpoint, device
        with torch.device("meta"):
            self.experts = [WanTransformer(spec.transformer) for _ in range(spec.num_experts)]
            self.vae = WanVae(spec.vae)
        self.encoder = _make_text_encoder(checkpoint, spec, world)
        self.image_encoder: ImageEncoder | None = None
        if spec.image_encoder is not None:
            assert isinstance(spec.image_encoder, ImageEncoderSpec)
            with torch.device("meta"):
                self.image_encoder = ImageEncoder(spec.image_encoder)
        self.residency: Residency | None = None
        self.loaded_bytes = self.left_to_pin_bytes = 0
        self._parts: WanParts

    @property
    def by_name(self) -> dict[str, Network]:
        """Networks by their folders."""
        image: dict[str, Network] = {} if self.image_encoder is None else {"image_encoder": self.image_encoder}
        return {**dict(self._named_experts), "vae": self.vae, "text_encoder": self.encoder, **image}

    @property
    def all(self) -> tuple[Network, ...]:
        """Networks of the checkpoint."""
        return (*self.experts, self.vae, self.encoder, *filter(None, (self.image_encoder,)))

    def load(self, dtype: torch.dtype, vae_dtype: torch.dtype) -> None:
        """Bring all weights to the device. Raises InvalidCheckpoint."""
        self._prepare(self._device, dtype, vae_dtype)
        for name, expert in self._named_experts:
            self._fill(expert, name)
            expert.optimise_layout()
        self._fill(self.vae, "vae")
        self.vae.optimise_layout()
        self.encoder.prepare(self._device, dtype)
        self._fill(self.encoder, "text_encoder")
        if self.image_encoder is not None:
            self._fill(self.image_encoder, "image_encoder")

    def _prepare(self, device: torch.device, dtype: torch.dtype, vae_dtype: torch.dtype) -> None:
        """Give all networks but the text encoder their dtypes, and divide them into parts that come and go together."""
        for expert in self.experts:
            materialise(expert, device, dtype, WanTransformer.KEPT_IN_FLOAT32)
        materialise(self.vae, device, vae_dtype)
        if self.image_encoder is not None:
            materialise(self.image_encoder, device, dtype)
        image = [] if self.image_encoder is None else [self.image_encoder.part()]
        self._parts = WanParts(image, [expert.parts(name) for name, expert in self._named_experts], self.vae.parts())
        self.adapted = [
            AdaptedTransformer(expert, parts.all, self._device)
            for expert, parts in zip(self.experts, self._parts.experts, strict=True)
        ]

    def load_to_host(
        self,
        dtype: torch.dtype,
        vae_dtype: torch.dtype,
        shelf_for: Callable[[Sequence[WeightPart]], Shelf],
        lane: Lane | None,
    ) -> None:
        """Bring all weights to the host's copy, but those that another rank of this machine brings or has brought.

        `shelf_for` makes room for all parts of the model there. The device has its weights by way of `lane`; a CPU
        needs none. Raises InvalidCheckpoint.
        """
        self._prepare(torch.device("meta"), dtype, vae_dtype)
        everywhere, here = self.encoder.prepare_to_stream(self._device, dtype)
        image, experts, vae = self._parts
        of_experts = [parts.all for parts in experts]
        of_vae = [vae.encoder, *vae.decoder]
        shelf = shelf_for([*chain(*of_experts), *of_vae, *everywhere, *image])
        own = [
            RankShare(self.encoder, "text_encoder", here, _bytes_of(everywhere)),
            *(
                RankShare(network, "image_encoder", image, _bytes_of(image))
                for network in (self.image_encoder,)
                if network
            ),
            RankShare(self.vae, "vae", of_vae, _bytes_of(of_vae)),
            *(
                RankShare(expert, name, parts, _bytes_of(parts))
                for (name, expert), parts in zip(self._named_experts, of_experts, strict=True)
            ),
        ]
        self.residency = Residency(self._filled(shelf, [each for each in own if each.parts]), lane)
        if lane is not None:
            most = memory_bytes() // 2
            shelf.pin(self._device, int(most * PINNED_WEIGHTS))
            self.left_to_pin_bytes = most - shelf.pinned_bytes
        self.encoder.stream_from(self.residency)

    def _filled(self, shelf: Shelf, own: Sequence[RankShare]) -> WeightSource:
        """Fill the shelf with this rank's weights, except those that the host has no room for: they stay in files."""
        left = self._left_in_files(shelf, own)
        for wait in (False, True):  # first what no other rank is about to fill
            for network, name, parts, _ in own:
                if name not in left:
                    shelf.bind(parts)
                    shelf.fill_once(parts, partial(self._fill, network, name), wait)
        if not left:
            return shelf
        readers: dict[str, Callable[[WeightPart], None]] = {}
        source = PartlyInFiles(shelf, readers)
        for network, name, parts, _ in own:
            if name in left:
                files = self._files(name)
                require_match(files, network.checkpoint_slots())
                readers |= dict.fromkeys((part.name for part in parts), partial(_read, network, files))
                self._look_at(network, files, parts, source)
        return source

    def _left_in_files(self, shelf: Shelf, own: Sequence[RankShare]) -> set[str]:
        """The names of networks that are not on the shelf and for which the host has no room, the least used first."""
        absent = [(each.name, each.num_bytes) for each in own if not shelf.is_filled(each.parts)]
        missing, available = shelf.missing_bytes, available_bytes()
        left = left_in_files(absent, missing, available)
        if not left:
            return set()
        room = plain(max(0, available - LEFT_BYTES) / GIB, 3)
        said = f"the host has {room} GiB for a copy of the weights, which takes {plain(missing / GIB, 3)}"
        if self._config.load_format == "dummy":
            raise OutOfMemory(f"{said}; random weights are in no file that could be read instead")
        logger.warning("%s: %s will be read from files whenever needed, which is slow", said, in_words(left))
        return set(left)

    def _look_at(
        self, network: Network, files: WeightFiles, parts: Sequence[WeightPart], source: PartlyInFiles
    ) -> None:
        """Read parts that stay in files once, to see whether they are finite."""
        extremes = Extremes()
        for part in parts:
            part.bind(torch.empty(part.num_bytes, dtype=torch.uint8))
            _read(network, files, part, extremes)
        source.bind(parts)
        extremes.require_finite()
        if isinstance(network, TextEncoder) and network.has_table:
            for _, _, table, scale in files.tensors({TABLE}):
                network.look_up_in(table if scale is None else widened(table, scale))

    @property
    def _named_experts(self) -> list[tuple[str, WanTransformer]]:
        return list(zip(TRANSFORMERS, self.experts, strict=False))

    def adapt(self, loras: Sequence[tuple[Lora, LoraFile]]) -> AdaptedReport:
        """Switch all experts to these LoRAs, and no others, from here on: each to those that are for it.

        What weights were read from is read again where they lie on the device and had been changed. Raises
        InvalidCheckpoint. After an error the weights are those of no LoRAs in particular, until they are adapted again.
        """
        began = time.perf_counter()
        shapes = {name: place.shape for name, place in self.adapted[0].places.items()}
        read = [read_adapters(file, lora.strength, shapes) for lora, file in loras]
        applied = []
        for number, expert in enumerate(self.adapted):
            own = [each if number in lora.experts else {} for each, (lora, _) in zip(read, loras, strict=True)]
            if self.residency is not None:
                applied.append(expert.switch_on_host(own, self.residency.source))
            else:
                applied.append(expert.switch_on_device(own, self._refiller(TRANSFORMERS[number])))
        reports = [reported(*lora, ways) for lora, ways in zip(loras, zip(*applied, strict=True), strict=True)]
        return AdaptedReport(seconds=time.perf_counter() - began, loras=reports)

    @contextmanager
    def making_text_keys(self, expert: int = 0) -> Iterator[None]:
        """Bring the parts of an expert that make keys and values of texts to the device within this context."""
        with self._expert_at_work(expert, self._parts.experts[expert].texts, ()):
            yield

    @contextmanager
    def denoising(self, placement: Placement | None, num_together: int, expert: int = 0) -> Iterator[None]:
        """Bring an expert's blocks to the device; `num_together` forwards go through each pass together."""
        blocks = self._parts.experts[expert].blocks
        kept = spread(_of(placement).streamed_blocks, len(blocks)) if self.residency else ()
        with self._expert_at_work(expert, blocks, kept, num_together):
            yield

    @contextmanager
    def first_block(self) -> Iterator[None]:
        """Bring all of the first transformer's first block to the device."""
        parts = [self._parts.experts[0].blocks[0], self._parts.experts[0].texts[0]]
        with at_work(self.residency, TRANSFORMERS[0], parts, kept=range(len(parts))) as weights:
            for place in range(len(parts)):
                weights.take(place)
            yield

    @contextmanager
    def seeing(self) -> Iterator[ImageEncoder]:
        """Bring the image encoder to the device, of a model that has one."""
        assert self.image_encoder is not None
        parts = self._parts.image_encoder
        with at_work(self.residency, "image_encoder", parts, kept=range(len(parts))) as weights:
            weights.take(0)
            yield self.image_encoder

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Bring the VAE's encoder to the device."""
        parts = [self._parts.vae.encoder]
        with at_work(self.residency, "vae", parts, kept=[0]) as weights:
            weights.take(0)
            yield

    @contextmanager
    def decoding(self, placement: Placement | None) -> Iterator[None]:
        """Bring the VAE's decoder to the device."""
        parts = self._parts.vae.decoder
        streams = self.residency is not None and _of(placement).streams_decoder
        kept = range(0 if streams else len(parts))
        with (
            at_work(self.residency, "vae", parts, kept, in_order=not streams) as weights,
            _taking(self.vae.decoder, weights),
        ):
            yield

    @contextmanager
    def _expert_at_work(
        self, expert: int, parts: Collection[WeightPart], kept: Collection[int], num_together: int = 1
    ) -> Iterator[None]:
        """Bring parts of an expert to the device; those of the numbers `kept` stay, and so do its ends."""
        parts = [self._parts.experts[expert].ends, *parts]
        stay = {0, *(1 + number for number in kept)}
        with (
            self.adapted[expert].at_work(parts),
            at_work(self.residency, TRANSFORMERS[expert], parts, stay, num_together) as weights,
            _taking(self.experts[expert], weights),
        ):
            yield

    def _fill(self, network: Network, name: str) -> None:
        """Fill weights from the checkpoint, or with random values if the load format says so."""
        self.loaded_bytes += sum(slot.nbytes for slot in network.checkpoint_slots().values() if not slot.is_meta)
        if self._config.load_format == "dummy":
            fill_random(network, seed=0, device=self._device)
        else:
            load_weights(network, self._files(name))

    def _refiller(self, name: str) -> Refill:
        """Function that fills a network's weights again as they were loaded."""
        if self._config.load_format == "dummy":
            return partial(fill_random, seed=0, device=self._device)
        files = self._files(name)
        return lambda network: read_weights(here(network.checkpoint_slots()), files)

    def _files(self, name: str) -> WeightFiles:
        return WeightFiles(self._checkpoint.part(name), STEMS[name], TIED_NAMES, in_our_names)


@contextmanager
def _taking(network: WanTransformer | VaeDecoder, weights: Weights) -> Iterator[None]:
    """Make a network take its weights from `weights` within this context."""
    network.weights = weights
    try:
        yield
    finally:
        network.weights = ALWAYS_THERE


def _read(network: Network, files: WeightFiles, part: WeightPart, extremes: Extremes | None = None) -> None:
    """Fill what a part is bound to from its files."""
    read_weights(network.checkpoint_slots(set(part.parameters)), files, extremes)


def _bytes_of(parts: Iterable[WeightPart]) -> int:
    return sum(part.num_bytes for part in parts)


def _of(placement: Placement | None) -> Placement:
    assert placement is not None, "weights that lie on the host have to be brought"
    return placement


def _make_text_encoder(checkpoint: Checkpoint, spec: ModelSpec, world: Axis | None) -> TextEncoder:
    assert isinstance(spec.text_encoder, TextEncoderSpec)
    tokenizer = load_tokenizer(checkpoint.tokenizer)
    if (num_tokens := tokenizer.get_vocab_size()) > spec.text_encoder.vocab_size:
        raise InvalidCheckpoint(
            f"{checkpoint.part(TOKENIZER)}: has {num_tokens} tokens, more than the text encoder's table "
            f"({spec.text_encoder.vocab_size})"
        )
    return TextEncoder(read_umt5(checkpoint, spec.text_encoder.held), tokenizer, spec.max_text_tokens, world)
