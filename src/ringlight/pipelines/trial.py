"""A trial of the checkpoint's sampler, when the model is loaded: on flows so small and simple that their end is known.

Half of the numbers of a "video" are always the same (c), the others are of a normal distribution (mean c, deviation s).
What a perfect network would predict is then a formula, in the time that it sees. Where all data are c, every right
sampler ends there, in however few steps; where they are normal, a sampler without noise of its own goes to c + s n.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ringlight.core.errors import InvalidCheckpoint, RinglightError
from ringlight.core.scheduler import SchedulerSpec
from ringlight.pipelines.resume import DenoisingProgress, content_of, pack, unpack
from ringlight.samplers.choosing import make_sampler, settings_of
from ringlight.samplers.sampler import Sampler
from ringlight.samplers.schedule import NUM_TRAIN_TIMESTEPS

CPU = torch.device("cpu")
SHAPE = (1, 4, 2, 4, 4)
FEW, MANY = 4, 10
LARGEST, DEVIATION = 3.0, 0.5  # of the data: c lies within +-3, s is 0.5
MOST_APART = 0.0015  # timesteps of some schedulers are whole numbers
MOST_OFF = 0.05  # whole timesteps and rounding leave 0.01
THAN_EULER = 1.5  # times as far off as Euler's method, at most
REMEDY = "take the scheduler of the published model"
# What makes a scheduler solve something else, where its configuration has it: the key, and the value that is right.
TELLING: dict[str, Any] = {
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "use_dynamic_shifting": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "thresholding": False,
    "invert_sigmas": False,
    "final_sigmas_type": "zero",
    "scale_factors": None,
    "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
}


class Wrong(Exception):
    """Fault of a sampler, in words that follow its name."""


@torch.inference_mode()
def require_sampler(spec: SchedulerSpec, model_path: Path) -> None:
    """Raise InvalidCheckpoint, with the reason, unless the checkpoint's scheduler solves the flow of the network."""
    place = model_path / "scheduler"
    try:
        end_of(spec, FEW)
        require_same(spec, MANY, end_of(spec, MANY))
        require_shift(spec)
    except RinglightError:  # it could not even be tried
        raise
    except Exception as error:  # diffusers raises of all kinds, and the operator must hear of each
        raise InvalidCheckpoint(f"{place}: {spec.class_name} {told(error)}{reasons(spec)}; {REMEDY}") from None


def end_of(spec: SchedulerSpec, num_steps: int) -> Tensor:
    """Latents after so many steps. Raises Wrong unless they are what they should be."""
    flow = Flow()
    sampler = sampler_of(spec, num_steps, flow)
    require_sigmas(sampler)
    if len(sampler.timesteps) != spec.num_calls(num_steps):
        raise Wrong(f"asks the network {len(sampler.timesteps)} times in {num_steps} steps")
    before = flow.generator.get_state()
    latents = flow.follow(sampler, flow.noise, range(num_steps))
    has_drawn = not torch.equal(flow.generator.get_state(), before)
    flow.require_end(latents, flow.by_euler(sampler), num_steps, has_drawn)
    return latents


def require_same(spec: SchedulerSpec, num_steps: int, latents: Tensor) -> None:
    """Raise Wrong unless so many steps end with the very same latents again, also when resumed from a saved state."""
    flow, half = Flow(), num_steps // 2
    sampler = sampler_of(spec, num_steps, flow)
    progress = DenoisingProgress(half, 1, 1, flow.follow(sampler, flow.noise, range(half)))
    progress, memory = unpack(content_of(*pack(progress, sampler.memory(), "trial")), "trial", CPU)
    sampler = sampler_of(spec, num_steps, flow)
    sampler.remember(memory)
    if not torch.equal(flow.follow(sampler, progress.latents, range(half, num_steps)), latents):
        raise Wrong("does not repeat itself: it draws noise without a seed, or remembers what cannot be saved")


def sampler_of(spec: SchedulerSpec, num_steps: int, flow: Flow) -> Sampler:
    """Make a sampler that draws its noise from the flow's generator."""
    return make_sampler(spec, num_steps, spec.flow_shift, flow.generator, CPU)


class Flow:
    """Flow of data of which half are one number each, c, and half normal around it, with its perfect network."""

    def __init__(self) -> None:
        self.generator = torch.Generator("cpu").manual_seed(0)
        self.noise = torch.randn(SHAPE, generator=self.generator)
        self.means = torch.linspace(-LARGEST, LARGEST, self.noise.numel()).view(SHAPE)
        self.deviations = torch.zeros(SHAPE)
        self.deviations[:, ::2] = DEVIATION

    def velocity(self, latents: Tensor, time: Tensor) -> Tensor:
        """Velocity E[noise - data | latents], where latents = (1 - sigma) data + sigma noise."""
        sigma = time.float() / NUM_TRAIN_TIMESTEPS
        variance = ((1 - sigma) * self.deviations) ** 2 + sigma**2
        slope = (sigma - (1 - sigma) * self.deviations**2) / variance
        return slope * (latents - (1 - sigma) * self.means) - self.means

    def follow(self, sampler: Sampler, latents: Tensor, steps: range) -> Tensor:
        """The latents after these steps."""
        for step in steps:
            for call in sampler.calls(step):
                latents = sampler.step(call, self.velocity(latents, sampler.timesteps[call]), latents)
        return latents

    def by_euler(self, sampler: Sampler) -> Tensor:
        """Latents at which Euler's method ends with the sigmas of a sampler."""
        latents = self.noise
        for time, change in zip(sampler.timesteps, sampler.sigmas.diff().float(), strict=True):
            latents = latents + change * self.velocity(latents, time)
        return latents

    def require_end(self, latents: Tensor, by_euler: Tensor, num_steps: int, has_drawn: bool) -> None:
        """Raise Wrong unless these are the latents at the end of so many steps.

        What draws noise ends somewhere else where data are normal: that it ends among them is all that can be asked.
        """
        if (latents.shape, latents.dtype) != (self.noise.shape, self.noise.dtype):
            raise Wrong(f"makes latents {list(latents.shape)} {latents.dtype} of {list(self.noise.shape)} float32")
        if not bool(latents.isfinite().all()):
            raise Wrong(f"ends in numbers that are not finite, in a trial of {num_steps} steps")
        off, by_euler = ((each - self.means - self.deviations * self.noise).abs() for each in (latents, by_euler))
        is_normal = self.deviations > 0
        most = 10 * DEVIATION if has_drawn else THAN_EULER * by_euler[is_normal].max() + MOST_OFF
        if off[~is_normal].max() > MOST_OFF or off[is_normal].max() > most:
            raise Wrong(f"does not follow the flow: in a trial of {num_steps} steps it ends {off.max():.2g} off")


def require_sigmas(sampler: Sampler) -> None:
    """Raise Wrong unless each call's time is its share of noise, and none is left after the last."""
    sigmas, seen = sampler.sigmas.float(), sampler.timesteps.float() / NUM_TRAIN_TIMESTEPS
    if not len(sigmas):
        raise Wrong("has no flow sigmas")
    if len(sigmas) != len(seen) + 1 or bool((sigmas[:-1] - seen).abs().max() > MOST_APART):
        raise Wrong("has no flow sigmas: they are not its timesteps / 1000, so the network would be told a wrong time")
    if sigmas[-1] > MOST_APART:
        raise Wrong(
            f"stops at sigma {sigmas[-1]:.2g} in {sampler.num_steps} steps, so that noise would be left in videos"
        )


def require_shift(spec: SchedulerSpec) -> None:
    """Raise Wrong unless another flow shift gives other timesteps."""
    one, other = (
        make_sampler(spec, FEW, shift, torch.Generator("cpu"), CPU) for shift in (spec.flow_shift, 2 * spec.flow_shift)
    )
    if torch.equal(one.timesteps, other.timesteps):
        raise Wrong(f"takes no flow shift ({spec.flow_shift_key})")


def told(error: Exception) -> str:
    """Fault in words that follow the scheduler's name."""
    said = " ".join(str(error).split())
    if isinstance(error, (Wrong, LookupError)):
        return said
    what = "cannot predict flow" if "prediction_type" in said else "cannot be run"
    return f"{what} ({type(error).__name__}: {said})"


def reasons(spec: SchedulerSpec) -> str:
    """Settings in the configuration that are the likely cause."""
    try:
        found = settings_of(spec)
    except LookupError:  # which is the cause
        return ""
    wrong = [f"{key} is {json.dumps(found[key])}" for key in TELLING if key in found and found[key] != TELLING[key]]
    return f"; {', '.join(wrong)}" if wrong else ""
