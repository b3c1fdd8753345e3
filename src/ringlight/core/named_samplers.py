"""The samplers that a request can name: methods, and presets, which also fix the grid of a distilled model.

`sampler` and `sigmas` of a request bring other fields with them (`layered`), so that nobody types grids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

Method = Literal["unipc", "dpm++", "euler", "dmd"]
RCM_SIGMAS = tuple(math.tan(angle) / (1 + math.tan(angle)) for angle in (1.5, 1.4, 1.0))  # after the first step


class NamedSampler(msgspec.Struct, frozen=True, kw_only=True):
    """Sampler that requests name. `method` makes the steps (samplers/naming.py has its solver).

    A preset has `sigmas`: the share of noise before each step, which `flow_shift` then shifts as k s / (1 + (k-1) s).
    The network is told 1000 times as much, or `timesteps`. Its guidance is what a request has that asks for none.
    Before the first step latents are the noise that a seed stands for, or as much of it as the first of the `sigmas`
    says (`scales_noise`).
    """

    method: Method
    about: str
    sigmas: tuple[float, ...] = ()
    timesteps: tuple[float, ...] = ()
    flow_shift: float = 1.0
    guidance_scale: float = 1.0
    scales_noise: bool = False

    @property
    def brings(self) -> dict[str, Any]:
        """Fields of a request that come with this name; a method alone brings none."""
        if not self.sigmas:
            return {}
        return {
            "sigmas": None,
            "num_inference_steps": len(self.sigmas),
            "flow_shift": self.flow_shift,
            "guidance_scale": self.guidance_scale,
        }


SAMPLERS: Mapping[str, NamedSampler] = {
    "unipc": NamedSampler(method="unipc", about="UniPC of second order, which Wan's own scripts use"),
    "dpm++": NamedSampler(method="dpm++", about="DPM-Solver++ of second order, the other one of these scripts"),
    "euler": NamedSampler(method="euler", about="straight lines, for LoRAs and models of few steps"),
    "dmd": NamedSampler(method="dmd", about="guesses the video at each step and adds new noise to it"),
    "lcm": NamedSampler(method="dmd", about="another name of dmd, as ComfyUI has it"),
    "lightx2v-4step": NamedSampler(
        method="euler",
        about="Lightning and lightx2v's distilled models and LoRAs, of Wan2.1 and Wan2.2",
        sigmas=(1.0, 0.75, 0.5, 0.25),
        flow_shift=5.0,
    ),
    "self-forcing-4step": NamedSampler(
        method="dmd",
        about="models and LoRAs distilled by Self-Forcing or DMD on the grid 1000, 750, 500, 250",
        sigmas=(1.0, 0.75, 0.5, 0.25),
        flow_shift=5.0,
    ),
    "fastwan-3step": NamedSampler(
        method="dmd",
        about="FastWan2.1 and FastWan2.2",
        sigmas=(1.0, 0.28, 0.12),
        timesteps=(1000.0, 757.0, 522.0),
        flow_shift=8.0,
    ),
    "turbo-4step": NamedSampler(
        method="dmd",
        about="rCM and TurboDiffusion, models and LoRAs, from texts",
        sigmas=(80 / 81, *RCM_SIGMAS),
        scales_noise=True,
    ),
    "turbo-i2v-4step": NamedSampler(
        method="dmd",
        about="rCM and TurboDiffusion, models and LoRAs, from pictures",
        sigmas=(200 / 201, *RCM_SIGMAS),
        scales_noise=True,
    ),
}
"""Grids are those of the projects that made the models: LightX2V's `denoising_step_list` [1000, 750, 500, 250] with
`sample_shift` 5 (its configs of step-distilled Wan2.1 and Wan2.2, and Wan2.2-Lightning); Self-Forcing's list, which it
warps by shift 5; FastVideo's `dmd_denoising_steps` [1000, 757, 522], whose sigmas are the nearest of a table of 1000
that is shifted by 8: entries 280 and 120. rCM (arXiv:2510.08431) and TurboDiffusion (arXiv:2512.16093) count in angles
of a trigonometric flow: the first has the tangent 80, or 200 for pictures, and then come 1.5, 1.4 and 1. An angle a is
the share tan a / (1 + tan a) of a straight flow, whose latents begin with that share of noise."""

PRESETS = tuple(name for name, sampler in SAMPLERS.items() if sampler.sigmas)
METHODS = tuple(name for name, sampler in SAMPLERS.items() if not sampler.sigmas)


def layered(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Combine the fields of a request: `given` ones, with all that they bring, over `base`; None is left out."""
    said = {name: value for name, value in given.items() if value is not None}
    return {**base, **brought_by(said), **said}


def brought_by(said: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that follow from others: a preset's, and for sigmas their number, and that they are not shifted.

    Fields that are given beside them win.
    """
    name, sigmas = said.get("sampler"), said.get("sigmas")
    sampler = SAMPLERS.get(name) if isinstance(name, str) else None
    brought = {} if sampler is None else sampler.brings
    if isinstance(sigmas, (list, tuple)) and sigmas:
        brought |= {"num_inference_steps": len(sigmas), "flow_shift": 1.0}
    return brought
