"""Denoising: noise to latents, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ringlight.kernels.attention.kernel import AttentionKernel
from ringlight.models.finite import extremes, not_finite
from ringlight.parallel.collective import collective
from ringlight.parallel.collectives import Transfers
from ringlight.parallel.mesh import Axis, ParallelMesh
from ringlight.parallel.turns import in_turns
from ringlight.pipelines.agreements import Agreements
from ringlight.pipelines.condition import Condition
from ringlight.pipelines.experts import Experts
from ringlight.pipelines.networks import Denoiser
from ringlight.pipelines.preview import Previews
from ringlight.pipelines.resume import DenoisingProgress, StateFile
from ringlight.pipelines.trace import StepClock, Tracer
from ringlight.pipelines.turn import Left, TurnEnds, Turns, tensor_bytes
from ringlight.samplers.sampler import Sampler


class Guided:
    """Predictor of one request's noise: one forward, or two with guidance. Text keys are projected once, and `kept`.

    Where the mesh has two guidance branches, this rank runs the forward of its own, and they exchange predictions.
    """

    def __init__(
        self,
        transformer: Denoiser,
        kernel: AttentionKernel,
        mesh: ParallelMesh,
        texts: list[Tensor],
        num_rows: int,
        guidance_scale: float,
        num_slices: int = 1,
        take_turns: bool = False,
        image: Tensor | None = None,
    ) -> None:
        """Prepare the forwards.

        `texts`: embeddings of the prompt, and with guidance of the negative prompt. `image`: tokens of pictures.

        `take_turns`: of two forwards on these ranks one computes while the data of the other travels. Same result.
        """
        self._transformer = transformer
        self._kernel = kernel
        self._mesh = mesh
        self._guidance_scale = guidance_scale
        self.num_slices = num_slices
        self._take_turns = take_turns
        assert mesh.cfg.size in (1, len(texts)), "two branches need two prompts"
        own = texts if mesh.cfg.size == 1 else [texts[mesh.cfg.rank]]
        self.kept = [transformer.text_keys(text, num_rows, image_LC=image) for text in own]

    @property
    def num_together(self) -> int:
        """Forwards that go through the network together, block by block."""
        return len(self.kept) if self._take_turns else 1

    @collective
    def predict(self, latents: Tensor, timesteps: Tensor, between: Callable[[], None] = lambda: None) -> Tensor:
        """Predict the velocity: uncond + guidance_scale * (cond - uncond), or the conditional one alone, in float32."""
        forwards = [
            self._transformer.steps(latents, timesteps, keys, self._kernel, self._mesh, self.num_slices)
            for keys in self.kept
        ]
        if self._take_turns:
            predictions = in_turns(*forwards, between=between)
        else:
            predictions = [made for forward in forwards for made in in_turns(forward, between=between)]
        if self._mesh.cfg.size == 2:
            predictions = exchange(predictions[0], self._mesh.cfg)
        conditional, *unconditional = (prediction.float() for prediction in predictions)
        if not unconditional:
            return conditional
        (base,) = unconditional
        return base + self._guidance_scale * (conditional - base)


@collective
def exchange(prediction: Tensor, cfg: Axis) -> list[Tensor]:
    """Exchange the predictions of both branches, in their order, on the ranks of both."""
    prediction = prediction.contiguous()
    other = torch.empty_like(prediction)
    Transfers({1 - cfg.rank: prediction}, {1 - cfg.rank: other}, cfg, "cfg").wait()
    return [prediction, other] if cfg.rank == 0 else [other, prediction]


@collective
def denoise(
    begun: DenoisingProgress,
    condition: Condition,
    sampler: Sampler,
    experts: Experts,
    tracer: Tracer,
    agreements: Agreements,
    state: StateFile | None = None,
    previews: Previews | None = None,
) -> Turns[Tensor]:
    """Denoise to float32 latents (1, z, T, h, w) after all steps, of which those of `begun` are done already.

    What the model sees of latents, and what stands in the result, is the `condition`'s to say. Between steps the state
    is saved and previews are made, where somebody wants them, and the job makes way, if it comes to that; a step that
    is broken off for others is made again. Raises NumericalError when latents stop being finite, Cancelled at the call
    of the network after a cancel, or within one.
    """
    progress, kept = begun, (begun, condition)
    yield from make_way(progress, kept, sampler, experts, tracer, state)
    for call in sampler.calls(progress.step)[:1] if progress.step < sampler.num_steps else ():
        experts.have(float(sampler.timesteps[call]))  # before the first step, whose seconds tell of others'
    clock = StepClock(tracer, sampler.num_steps, progress.step)
    while progress.step < sampler.num_steps:
        progress = make_step(progress, condition, sampler, experts, tracer, clock, agreements, state, previews)
        if tracer.events.turn_ends:
            yield from make_way(progress, kept, sampler, experts, tracer, state)
            clock.begin()
    return condition.settle_(progress.latents)


@collective
def make_step(
    progress: DenoisingProgress,
    condition: Condition,
    sampler: Sampler,
    experts: Experts,
    tracer: Tracer,
    clock: StepClock,
    agreements: Agreements,
    state: StateFile | None,
    previews: Previews | None,
) -> DenoisingProgress:
    """Make one more step; the progress and the sampler stay as they were if the step is broken off for others."""
    step, latents, calls = progress.step + 1, progress.latents, sampler.calls(progress.step)
    memory = sampler.memory() if len(calls) > 1 else None  # which the first of several calls changes
    try:
        for call in calls:
            seen, before = condition.seen(latents, sampler.timesteps[call]), latents
            velocity = experts.predict(*seen, agreements)
            latents = sampler.step(call, velocity, latents)
            place = f"latents after step {step} of {sampler.num_steps}"
            tracer.events.boundary(not_finite("Denoising", place, extremes(latents)))
    except TurnEnds:
        clock.give_up()
        if memory is not None:
            sampler.remember(memory)
        return progress
    clock.tick()
    agreements.step_finished()
    progress = replace(progress, step=step, latents=latents)
    if state is not None:
        state.save(progress, sampler)
    if previews is not None and previews.is_due():
        previews.make(step, condition.settle_(without_noise(before, velocity, sampler.sigmas[call])))
    return progress


def make_way(
    progress: DenoisingProgress,
    kept: object,
    sampler: Sampler,
    experts: Experts,
    tracer: Tracer,
    state: StateFile | None,
) -> Turns[None]:
    """Pause for other jobs, if all ranks have agreed on that, and again as long as they do.

    Weights are given up, the state is saved; what was made of the request stays. `kept`: what there is of it beside
    progress, sampler and experts.
    """
    while tracer.events.turn_ends:
        experts.rest()
        if state is not None:
            state.settle(progress, sampler)
        yield Left(progress.step, tensor_bytes(progress, kept, sampler.memory(), experts.kept))


def without_noise(latents: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Latents before a step, less the noise that it predicts in them: what the video would be from here.

    Latents at sigma are (1 - sigma) * video + sigma * noise, and the model predicts noise - video
    (flow matching, arXiv 2210.02747).
    """
    return latents - sigma.to(latents.device) * velocity
