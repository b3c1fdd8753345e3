"""The recipe of Wan2.2-TI2V: which networks there are, and the stages of a generation in a straight line."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ringlight.attention.kernel import AttentionKernel, choose_kernel
from ringlight.core.config import EngineConfig
from ringlight.core.errors import InvalidCheckpoint
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.core.spec import ModelSpec
from ringlight.models.wan.checkpoint import WeightFiles, fill_random, load_weights, materialise
from ringlight.models.wan.text_encoder import TIED_NAMES, TextEncoder, load_tokenizer
from ringlight.models.wan.transformer import WanTransformer
from ringlight.models.wan.vae import WanVae
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.output import open_writer, save_latents
from ringlight.pipelines.stages.decoding import decode
from ringlight.pipelines.stages.denoising import Guided, denoise
from ringlight.pipelines.stages.image_encoding import encode_image
from ringlight.pipelines.stages.input_validation import validate_input
from ringlight.pipelines.stages.latent_preparation import prepare_latents
from ringlight.pipelines.stages.text_encoding import PromptCache, encode_text
from ringlight.pipelines.stages.timestep_preparation import prepare_timesteps, require_scheduler
from ringlight.pipelines.trace import Tracer


class Wan22TI2V:
    """A loaded model on one device, ready to make videos one after another."""

    def __init__(
        self,
        config: EngineConfig,
        limits: RequestLimits,
        device: torch.device,
        dtype: torch.dtype,
        vae_dtype: torch.dtype,
    ) -> None:
        """Load the checkpoint of `config`. Raises InvalidCheckpoint."""
        self.config, self.limits, self.device = config, limits, device
        self.model_path = Path(config.model_path)
        self.spec = ModelSpec.read(self.model_path)
        require_scheduler(self.spec.scheduler, self.model_path)
        self.kernel: AttentionKernel = choose_kernel(device, dtype, self.spec.transformer.attention_head_dim)
        self.mesh = ParallelMesh.alone()
        self.transformer = self._load_transformer(dtype)
        self.vae = self._load_vae(vae_dtype)
        self.prompts = PromptCache(self._load_text_encoder(dtype), config.prompt_cache_bytes)

    @torch.inference_mode()
    def run(self, request: VideoRequest, output: Path, job_id: str, tracer: Tracer) -> list[str]:
        """Make one video and write it to `output`; returns the paths written. One line per stage."""
        image = tracer.timed("InputValidation", validate_input, request, self.spec, self.limits)
        texts = tracer.timed("TextEncoding", encode_text, request, self.prompts)
        first = None if image is None else tracer.timed("ImageEncoding", encode_image, image, self.vae, self.device)
        noise = tracer.timed("LatentPreparation", prepare_latents, request, self.spec, self.device)
        times = tracer.timed("TimestepPreparation", prepare_timesteps, request, self.spec.scheduler, self.device)
        latents = tracer.timed("Denoising", self._denoise, noise, first, times, texts, request, tracer)
        if output.suffix.lower() == ".safetensors":
            return tracer.timed("Output", save_latents, latents, output, job_id)
        return self._write_video(latents, request, output, job_id, tracer)

    def _denoise(
        self,
        noise: Tensor,
        first: Tensor | None,
        scheduler: object,
        texts: list[Tensor],
        request: VideoRequest,
        tracer: Tracer,
    ) -> Tensor:
        num_rows, guidance_scale = self.spec.max_text_tokens, request.guidance_scale
        guided = Guided(self.transformer, self.kernel, self.mesh, texts, num_rows, guidance_scale)
        return denoise(noise, first, scheduler, guided, tracer)

    def _write_video(
        self, latents: Tensor, request: VideoRequest, output: Path, job_id: str, tracer: Tracer
    ) -> list[str]:
        writer = open_writer(output, request, job_id)
        try:
            chunk = self.config.decode_chunk
            tracer.timed("Decoding", decode, latents, self.vae, chunk, writer, tracer.events)
            return tracer.timed("Output", writer.finish)
        except BaseException:
            writer.abort()
            raise

    def _load_transformer(self, dtype: torch.dtype) -> WanTransformer:
        with torch.device("meta"):
            transformer = WanTransformer(self.spec.transformer)
        materialise(transformer, self.device, dtype, WanTransformer.KEPT_IN_FLOAT32)
        self._fill(transformer, "transformer")
        transformer.optimise_layout()
        return transformer

    def _load_vae(self, dtype: torch.dtype) -> WanVae:
        with torch.device("meta"):
            vae = WanVae(self.spec.vae)
        materialise(vae, self.device, dtype)
        self._fill(vae, "vae")
        vae.optimise_layout()
        return vae

    def _load_text_encoder(self, dtype: torch.dtype) -> TextEncoder:
        tokenizer = load_tokenizer(self.model_path / "tokenizer")
        if len(tokenizer) > self.spec.text_encoder.vocab_size:
            raise InvalidCheckpoint(
                f"{self.model_path / 'tokenizer'}: has {len(tokenizer)} tokens, more than the text encoder's table "
                f"({self.spec.text_encoder.vocab_size})"
            )
        with torch.device("meta"):
            encoder = TextEncoder(self.model_path / "text_encoder", tokenizer, self.spec.max_text_tokens)
        encoder.prepare(self.device, dtype)
        self._fill(encoder, "text_encoder", stem="model")
        return encoder

    def _fill(self, network: nn.Module, name: str, stem: str = "diffusion_pytorch_model") -> None:
        """Weights from the checkpoint, or random ones where the load format says so."""
        assert isinstance(network, (WanTransformer, WanVae, TextEncoder))
        if self.config.load_format == "dummy":
            fill_random(network, seed=0)
        else:
            load_weights(network, WeightFiles(self.model_path / name, stem, TIED_NAMES))
