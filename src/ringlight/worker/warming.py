"""The smallest videos, made before the first job: what is chosen, connected and allocated once is then done."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
from PIL import Image

from ringlight.core import messages
from ringlight.core.errors import InvalidCheckpoint, NumericalError
from ringlight.core.layout import ParallelLayout, decide
from ringlight.core.plan import JobPlan, Placement
from ringlight.core.request import RequestDefaults, RequestLimits, VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.families.recipe import Recipe
from ringlight.parallel.collective import collective
from ringlight.parallel.group import RankGroup
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.output import finish
from ringlight.pipelines.trace import MemoryMeter, Tracer
from ringlight.pipelines.turn import uninterrupted
from ringlight.worker.corridor import Corridor
from ringlight.worker.events import Events

NUM_STEPS = 2  # the scheduler's second step is not as its first


class Unheard(Events):
    """Boundaries of a job of our own, which is not reported to the engine."""

    def _tell(self, message: messages.JobMessage) -> None: ...


@collective
def warm_up(pipeline: Recipe, group: RankGroup, corridor: Corridor, meter: MemoryMeter) -> None:
    """Make the smallest videos, also with a picture if the model takes any, previews included.

    They have the LoRAs that are always on. All ranks call it together.

    Raises InvalidCheckpoint where these hold NaN or infinity.
    """
    layout = usual_layout(pipeline, group.place.num_ranks)
    mesh = ParallelMesh.of(layout, group.place.rank, group.link)
    placement = None
    if pipeline.is_placed:  # as little on the device as may be
        placement = Placement(streamed_blocks=pipeline.spec.transformer.num_layers, streams_decoder=True)
    # So few tokens are not cut, unless that is asked.
    plan = JobPlan(num_slices=pipeline.config.num_slices or 1, placement=placement)
    with tempfile.TemporaryDirectory(prefix="ringlight-warm-up-") as folder:
        output = Path(folder) / "video.mp4"
        for request in smallest_requests(pipeline.spec, pipeline.limits):
            job = messages.RunJob(job_id="warm-up", request=request, output=str(output), layout=layout, plan=plan)
            events = Unheard(corridor, group, job, pipeline.patience_seconds(request))
            tracer = Tracer(pipeline.device, meter, events)
            try:
                pipeline.adapt(pipeline.always_on, tracer)
                made = uninterrupted(
                    pipeline.make(request, output, job.job_id, tracer, mesh, plan, preview_seconds=1.0)
                )
            except NumericalError as error:
                raise InvalidCheckpoint(
                    f"{pipeline.checkpoint.place}: not even the smallest video is finite: {error}"
                ) from None
            if made is not None:
                finish(made)
    pipeline.prompts.forget()
    group.expect(None)


def usual_layout(pipeline: Recipe, num_ranks: int) -> ParallelLayout:
    """Layout of requests with guidance that ask for none: as the engine chose it, or as it follows if that is open."""
    config, heads = pipeline.config, pipeline.spec.transformer.num_attention_heads
    asked = msgspec.structs.replace(config.asked_layout, num_gpus=num_ranks)
    return decide(asked, num_heads=heads, guidance=True, num_nodes=config.nodes.nnodes).layout


def smallest_requests(spec: ModelSpec, limits: RequestLimits) -> Iterator[VideoRequest]:
    """Yield the smallest requests with guidance: text-to-video, and image-to-video if the model makes it.

    They have as many frames as are decoded in two portions.
    """
    height, width = spec.size_multiple
    num_frames = 1 + spec.frame_multiple
    image = io.BytesIO()
    Image.new("RGB", (width, height), "gray").save(image, "PNG")
    kinds = [None] * (not spec.needs_picture) + [image.getvalue()] * spec.takes_picture
    for picture in kinds:
        yield RequestDefaults(seed=0).complete(
            "warm-up",
            spec,
            width=width,
            height=height,
            num_frames=num_frames if num_frames <= limits.max_frames else 1,
            num_inference_steps=min(NUM_STEPS, limits.max_steps),
            image=picture,
            last_image=picture if spec.needs_last_picture else None,
        )
