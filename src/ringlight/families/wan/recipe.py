"""The recipe of Wan: which networks there are, and the stages of a generation in a straight line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import torch
from torch import Tensor, nn

from ringlight.core.config import EngineConfig
from ringlight.core.lora import Lora
from ringlight.core.plan import SIMPLEST, Abilities, JobPlan, Speeds
from ringlight.core.report import AdaptedReport, WeightsReport
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.recipe import Loaded
from ringlight.families.table import checkpoint_of, model_of
from ringlight.families.wan.loaded import WanNetworks
from ringlight.kernels.attention.kernel import choose_kernel
from ringlight.parallel.collective import collective
from ringlight.parallel.control import Control
from ringlight.parallel.mesh import Axis, ParallelMesh
from ringlight.parallel.speeds import least, measure_link
from ringlight.pipelines.agreements import Agreements
from ringlight.pipelines.condition import Beside, Condition, FirstFrame, NoPicture
from ringlight.pipelines.continued import require_continuable
from ringlight.pipelines.experts import Experts
from ringlight.pipelines.output import FrameWriter, LatentsWriter, Output, finish, frame_converter, open_writer
from ringlight.pipelines.preview import Painter, Previews
from ringlight.pipelines.resume import DenoisingProgress, StateFile
from ringlight.pipelines.stages.decoding import WRITING_RANK, decode
from ringlight.pipelines.stages.denoising import Guided, denoise
from ringlight.pipelines.stages.image_encoding import encode_condition, encode_image
from ringlight.pipelines.stages.input_validation import validate_input
from ringlight.pipelines.stages.latent_preparation import prepare_latents
from ringlight.pipelines.stages.picture_tokens import picture_tokens
from ringlight.pipelines.stages.text_encoding import PromptCache, encode_text
from ringlight.pipelines.stages.timestep_preparation import prepare_timesteps
from ringlight.pipelines.trace import Tracer
from ringlight.pipelines.trial import require_sampler
from ringlight.pipelines.turn import Turns, uninterrupted
from ringlight.residency.exchange import CudaExchange, Moved
from ringlight.residency.lane import CudaLane
from ringlight.residency.shelf import Shelf
from ringlight.samplers.sampler import Sampler

# A floor under all speeds, in FLOP/s: for telling slow work from work that does not come.
SLOWEST_CUDA, SLOWEST_CPU = 2e12, 1e9
LEAST_PATIENCE_SECONDS = 120.0

FRAME_HISTORY = "history of frames"  # as reports call what the decoder keeps on the host

T = TypeVar("T")


class WanRecipe:
    """A loaded model on one device, ready to make videos one after another."""

    def __init__(
        self,
        config: EngineConfig,
        limits: RequestLimits,
        device: torch.device,
        dtype: torch.dtype,
        vae_dtype: torch.dtype,
        world: Axis | None = None,
        shelf: int | None = None,
        num_sharing: int = 1,
        loras: LoraLibrary | None = None,
    ) -> None:
        """Load the checkpoint of `config`, of the text encoder the part of this rank of `world` (None: a single rank).

        To the device, or to a host's copy of which jobs take what they need (`shelf`: the descriptor of memory that
        `num_sharing` ranks of a machine share, -1 for this process's own). `loras` are those of `config`, where
        somebody has looked at their files already. Raises InvalidCheckpoint, also for LoRAs that are always on, and
        InvalidSetting.
        """
        self.config, self.limits, self.device = config, limits, device
        self.checkpoint = checkpoint_of(config)
        self.spec = model_of(self.checkpoint)
        require_sampler(self.spec.scheduler, self.checkpoint.place)
        network = self.spec.transformer
        self.kernel = choose_kernel(
            device, dtype, network.attention_head_dim, network.num_attention_heads, config.attention
        )
        self.networks = WanNetworks(config, self.checkpoint, self.spec, device, world)
        began = time.perf_counter()
        if shelf is None:
            self.networks.load(dtype, vae_dtype)
        else:
            lane = CudaLane(device) if device.type == "cuda" else None
            self.networks.load_to_host(dtype, vae_dtype, partial(Shelf, descriptor=shelf), lane)
            if lane is not None:
                self.networks.vae.exchange = CudaExchange(device, self.networks.left_to_pin_bytes // num_sharing)
        self.loaded = Loaded(num_bytes=self.networks.loaded_bytes, seconds=time.perf_counter() - began)
        self.transformer, self.vae = self.networks.experts[0], self.networks.vae
        self.painter = Painter(self.vae)
        self._library = loras or LoraLibrary(config, self.spec)
        self._loras: tuple[Lora, ...] | None = ()  # that weights are with at the moment; None: nobody knows
        self._adapted = AdaptedReport()
        self.prompts = PromptCache(self.networks.encoder, config.prompt_cache_bytes)
        self.spare_bytes = spare_bytes(device, self.networks.all if shelf is None else ())

    @collective
    def run(
        self,
        request: VideoRequest,
        output: Path,
        job_id: str,
        tracer: Tracer,
        mesh: ParallelMesh | None = None,
        plan: JobPlan = SIMPLEST,
    ) -> list[str]:
        """Make one video and write it to `output`; returns the paths written, on ranks other than 0 none."""
        self.forget_what_came()
        made = uninterrupted(self.make(request, output, job_id, tracer, mesh, plan))
        return [] if made is None else finish(made)

    @property
    def always_on(self) -> tuple[Lora, ...]:
        """The LoRAs that are added to each request."""
        return self._library.always

    @torch.inference_mode()
    @collective
    def adapt(self, loras: tuple[Lora, ...], tracer: Tracer) -> AdaptedReport | None:
        """Apply these LoRAs, and no others, to the weights for all further videos. Every rank does it alike.

        Returns how that was done, None where there are none. Raises, on all ranks, what any of them raises.
        """
        if loras == self._loras:
            self._adapted = msgspec.structs.replace(self._adapted, seconds=0.0)
        else:
            self._loras = None
            tracer.timed("LoraSwitch", _alike, partial(self._switch, loras), tracer)
            self._loras = loras
        return self._adapted if loras else None

    def _switch(self, loras: tuple[Lora, ...]) -> None:
        self._adapted = self.networks.adapt([(lora, self._library.file(lora)) for lora in loras])

    @torch.inference_mode()
    @collective
    def make(
        self,
        request: VideoRequest,
        output: Path,
        job_id: str,
        tracer: Tracer,
        mesh: ParallelMesh | None = None,
        plan: JobPlan = SIMPLEST,
        state: StateFile | None = None,
        preview_seconds: float = 0.0,
        continues: Path | None = None,
    ) -> Turns[Output | None]:
        """Make one video as `plan` says; returns its output, to be finished, on rank 0 and None on others.

        Between denoising steps it can be paused.

        One line per stage. Every rank of `mesh` (None: a single one) runs this alike. Denoising goes on from `state`,
        then in the portions that it began with, and saves to it. `preview_seconds` apart there are previews, with 0
        none. The output begins with the frames of the video `continues`, whose last one is the request's first.
        """
        mesh = mesh or ParallelMesh.alone()
        frames = tracer.timed("InputValidation", validate_input, request, self.spec, self.limits)
        if continues is not None:
            _on_writer(partial(require_continuable, continues, output, request), mesh, tracer)
        texts = tracer.timed("TextEncoding", encode_text, request, self.prompts, tracer.events)
        condition: Condition = NoPicture()
        if frames.first is not None:
            condition = tracer.timed("ImageEncoding", self._condition, frames.first, frames.last, request, mesh, tracer)
        random, spec, device = torch.Generator("cpu").manual_seed(request.seed), self.spec, self.device
        shape = spec.latent_shape(request.num_frames, request.height, request.width)
        noise = tracer.timed("LatentPreparation", prepare_latents, shape, random, device)
        sampler = tracer.timed("TimestepPreparation", prepare_timesteps, request, spec.scheduler, random, device)
        noise = sampler.first_latents(noise)
        denoising = self._denoise(noise, condition, sampler, texts, request, tracer, mesh, plan, state, preview_seconds)
        latents = yield from tracer.timed_in_turns("Denoising", denoising)
        if output.suffix.lower() == ".safetensors":
            tracer.begin_last("Output")
            return LatentsWriter(latents, output, job_id) if mesh.world.rank == WRITING_RANK else None
        with self.networks.decoding(plan.placement):
            return self._decode(latents, request, output, job_id, tracer, mesh, plan, continues)

    @collective
    def _condition(
        self, image: Tensor, last: Tensor | None, request: VideoRequest, mesh: ParallelMesh, tracer: Tracer
    ) -> Condition:
        """Condition that the pictures put on the latents of this model."""
        where, tokens = (self.vae, self.device, mesh.world, tracer.events), None
        if self.spec.image_encoder is not None:
            with self.networks.seeing() as encoder:
                tokens = picture_tokens([*request.pictures.values()], self.limits, encoder, self.device, tracer.events)
        with self.networks.encoding():
            if self.spec.sees_condition:
                return Beside(encode_condition(image, last, request.num_frames, *where), tokens)
            return FirstFrame(encode_image(image, *where))

    @collective
    def _denoise(
        self,
        noise: Tensor,
        condition: Condition,
        sampler: Sampler,
        texts: list[Tensor],
        request: VideoRequest,
        tracer: Tracer,
        mesh: ParallelMesh,
        plan: JobPlan,
        state: StateFile | None,
        preview_seconds: float,
    ) -> Turns[Tensor]:
        fresh = DenoisingProgress(0, plan.num_slices, plan.decode_chunk, noise)
        begun = fresh if state is None else state.begin(fresh, sampler)
        tracer.began(begun.step, begun.num_slices, _portion(begun.decode_chunk, plan))
        previews = None
        if preview_seconds and mesh.world.rank == WRITING_RANK:
            previews = self._previews(preview_seconds, plan, tracer)
        agreements = Agreements(tracer.events, plan.blocks_per_agreement, self.device)
        make = partial(self._guided, texts, condition.tokens, request, mesh, plan, begun.num_slices)
        with closing(Experts(make, partial(self._at_work, plan), self.spec.boundary)) as experts:
            return (yield from denoise(begun, condition, sampler, experts, tracer, agreements, state, previews))

    def _guided(
        self,
        texts: list[Tensor],
        image: Tensor | None,
        request: VideoRequest,
        mesh: ParallelMesh,
        plan: JobPlan,
        num_slices: int,
        number: int,
    ) -> Guided:
        """An expert, or the only transformer: with keys of the texts, and guidance of its own."""
        with self.networks.making_text_keys(number):
            return Guided(
                self.networks.experts[number],
                self.kernel,
                mesh,
                texts,
                self.spec.max_text_tokens,
                request.guidance_scales[number],
                num_slices,
                plan.take_turns,
                image,
            )

    def _at_work(self, plan: JobPlan, number: int, guided: Guided) -> AbstractContextManager[None]:
        """Bring the weights of an expert to the device within this context, as the plan places them."""
        return self.networks.denoising(plan.placement, guided.num_together, number)

    def _previews(self, seconds: float, plan: JobPlan, tracer: Tracer) -> Previews:
        """Previews by a painter that is fitted to the VAE by now."""
        if not self.painter.is_fitted:
            with self.networks.encoding(), self.networks.decoding(plan.placement):
                self.painter.fit(self.device)
        return Previews(self.painter, seconds, tracer)

    @collective
    def _decode(
        self,
        latents: Tensor,
        request: VideoRequest,
        output: Path,
        job_id: str,
        tracer: Tracer,
        mesh: ParallelMesh,
        plan: JobPlan,
        continues: Path | None,
    ) -> FrameWriter | None:
        embeds = self.config.embed_settings
        writer = _on_writer(partial(open_writer, output, request, job_id, continues, embeds=embeds), mesh, tracer)
        try:
            chunk, convert, events = tracer.decode_chunk, frame_converter(output), tracer.events
            placed = plan.placement
            tracer.timed("Decoding", decode, latents, self.vae, chunk, convert, writer, events, mesh.world, placed)
            tracer.begin_last("Output")
            return writer
        except BaseException:
            if writer is not None:
                writer.abort()
            raise

    @torch.inference_mode()
    @collective
    def measure(self, world: Axis, control: Control) -> Abilities:
        """Measure what the ranks can do, the least of all of them: spare memory, and with several also link and device.

        All call it together.
        """
        spare = int(least(self.spare_bytes, control))
        if world.size == 1:
            return Abilities(spare_bytes=spare)
        with self.networks.first_block():
            flops_per_second = self.transformer.measure_flops(self.kernel)
        speeds = Speeds(
            link_bytes_per_second=measure_link(world, control, self.device),
            flops_per_second=least(flops_per_second, control),
        )
        return Abilities(spare_bytes=spare, speeds=speeds)

    @property
    def is_placed(self) -> bool:
        """Whether weights lie on the host, so that every plan has a placement."""
        return self.networks.residency is not None

    def weights_report(self) -> WeightsReport | None:
        """Report on weights that came to the device since the last reset; None if all stay there."""
        residency = self.networks.residency
        if residency is None:
            return None
        report, moved = residency.report(), Moved() if self.vae.exchange is None else self.vae.exchange.moved()
        if not moved.num_bytes:
            return report
        return msgspec.structs.replace(
            report,
            brought_bytes=report.brought_bytes | {FRAME_HISTORY: moved.num_bytes},
            wait_seconds=report.wait_seconds | {FRAME_HISTORY: moved.wait_seconds},
        )

    def forget_what_came(self) -> None:
        """Reset the report on weights: what comes next belongs to another job or turn."""
        if self.networks.residency is not None:
            self.networks.residency.reset()
        if self.vae.exchange is not None:
            self.vae.exchange.moved()

    def patience_seconds(self, request: VideoRequest) -> float:
        """Upper bound in seconds on any rank's time between two boundaries of a request; a later rank is lost."""
        num_tokens = self.spec.num_tokens(request.num_frames, request.height, request.width)
        forward = self.spec.transformer.forward_flops(num_tokens) * (2 if request.uses_guidance else 1)
        text = self.spec.text_encoder.layers.flops(self.spec.max_text_tokens) * 2
        rate = SLOWEST_CUDA if self.device.type == "cuda" else SLOWEST_CPU
        return LEAST_PATIENCE_SECONDS + (forward + text) / rate


def spare_bytes(device: torch.device, networks: Iterable[nn.Module]) -> int:
    """Bytes of a GPU beside the weights of networks that stay there, whoever has them at the moment; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    held = sum(weight.nbytes for network in networks for weight in network.parameters())
    return int(torch.cuda.get_device_properties(device).total_memory) - held


def _portion(begun: int, plan: JobPlan) -> int:
    """Latent frames to decode at a time: those that a job began with, unless a budget has room for fewer now."""
    return begun if plan.placement is None else min(begun, plan.decode_chunk)


@collective
def _on_writer(action: Callable[[], T], mesh: ParallelMesh, tracer: Tracer) -> T | None:
    """Run an action for the output on rank 0 alone; other ranks get None. An error of it is raised on all ranks."""
    return _alike(action if mesh.world.rank == WRITING_RANK else lambda: None, tracer)


@collective
def _alike(action: Callable[[], T | None], tracer: Tracer) -> T | None:
    """Run an action on every rank. An error of any of them is raised on all."""
    result, problem = None, None
    try:
        result = action()
    except Exception as error:  # whatever it is, the other ranks must hear of it at the boundary
        problem = error
    tracer.events.check_problem(problem)
    return result
