"""Recipe: a loaded model that makes videos, as a worker sees it, and how the one of a checkpoint is found."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import NamedTuple, Protocol

import torch

from ringlight.core.checkpoint import Checkpoint
from ringlight.core.config import EngineConfig
from ringlight.core.lora import Lora
from ringlight.core.plan import SIMPLEST, Abilities, JobPlan
from ringlight.core.report import AdaptedReport, WeightsReport
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.model import ModelSpec
from ringlight.families.table import checkpoint_of, family_of, model_of
from ringlight.kernels.attention.kernel import AttentionKernel
from ringlight.parallel.control import Control
from ringlight.parallel.mesh import Axis, ParallelMesh
from ringlight.pipelines.output import Output
from ringlight.pipelines.resume import StateFile
from ringlight.pipelines.stages.text_encoding import PromptCache
from ringlight.pipelines.trace import Tracer
from ringlight.pipelines.turn import Turns


class Loaded(NamedTuple):
    """Bytes of weights in a rank's memory, and seconds to load them, waits included."""

    num_bytes: int
    seconds: float

    @property
    def gigabytes_per_second(self) -> float:
        """Speed of loading, in 10^9 bytes a second."""
        return self.num_bytes / self.seconds / 1e9


class Recipe(Protocol):
    """A loaded model on one device, ready to make videos one after another."""

    config: EngineConfig
    limits: RequestLimits
    device: torch.device
    checkpoint: Checkpoint
    spec: ModelSpec
    kernel: AttentionKernel
    prompts: PromptCache
    loaded: Loaded

    @property
    def always_on(self) -> tuple[Lora, ...]:
        """The LoRAs that are added to each request."""

    def adapt(self, loras: tuple[Lora, ...], tracer: Tracer) -> AdaptedReport | None:
        """Apply these LoRAs, and no others, to the weights for further videos; returns a report, None without any."""

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

        Where `tracer.events` say that its turn ends it makes way as soon as it can. It holds no weights then, and
        goes on whatever others do in between, but with the LoRAs that it had.
        """

    def measure(self, world: Axis, control: Control) -> Abilities:
        """Measure what the ranks can do, the least of all of them. All call it together."""

    @property
    def is_placed(self) -> bool:
        """Whether weights lie on the host, so that every plan has a placement."""

    def weights_report(self) -> WeightsReport | None:
        """Report on weights that came to the device since the last reset; None if all stay there."""

    def forget_what_came(self) -> None:
        """Reset the report on weights: what comes next belongs to another job or turn."""

    def patience_seconds(self, request: VideoRequest) -> float:
        """Upper bound in seconds on any rank's time between two boundaries of a request."""


def load_recipe(
    config: EngineConfig,
    limits: RequestLimits,
    device: torch.device,
    dtype: torch.dtype,
    vae_dtype: torch.dtype,
    world: Axis | None = None,
    shelf: int | None = None,
    num_sharing: int = 1,
    loras: LoraLibrary | None = None,
) -> Recipe:
    """Load the checkpoint of `config`, with this rank's part of the text encoder in `world` (None: a single rank).

    To the device, or with a `shelf` to that memory of this machine, which `num_sharing` ranks share: its descriptor, or
    -1 for memory of this process alone. `loras` are those of `config`, where somebody has looked at their files
    already. Raises InvalidCheckpoint.
    """
    make = resolve_name(family_of(model_of(checkpoint_of(config))).recipe)
    recipe: Recipe = make(config, limits, device, dtype, vae_dtype, world, shelf, num_sharing, loras)
    return recipe
