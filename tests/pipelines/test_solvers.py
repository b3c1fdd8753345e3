"""Our own solvers beside diffusers' schedulers of the same names: the same schedules, the same latents."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ringlight.pipelines.trial import CPU, Flow
from ringlight.samplers.adapter import DiffusersSampler
from ringlight.samplers.choosing import find_solver, make_sampler
from ringlight.samplers.sampler import SolverSampler
from tests.samplers import scheduler_spec

LARGEST = 1e-5  # diffusers rounds its factors to float32
OF_HEUN = 1e-4  # where it takes a velocity times sigma from latents, adds it again, and divides by a small sigma
UNIPC, DPM, EULER = "UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((UNIPC, {"solver_order": order}) for order in (1, 2, 3)),
    (UNIPC, {"disable_corrector": [0, 2]}),
    *(
        (DPM, {"solver_order": order, "solver_type": kind, "algorithm_type": algorithm})
        for order in (1, 2)
        for kind in ("midpoint", "heun")
        for algorithm in ("dpmsolver++", "sde-dpmsolver++")
    ),
    (EULER, {}),
    (EULER, {"stochastic_sampling": True}),
    ("FlowMatchHeunDiscreteScheduler", {}),
    ("FlowMatchLCMScheduler", {}),
]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.slow
@pytest.mark.parametrize(("class_name", "config"), SETTINGS, ids=str)
def test_it_goes_the_way_of_diffusers(class_name: str, config: dict[str, Any]) -> None:
    """Call by call, with velocities that depend on the latents and are none of a simple flow."""
    for shift in (1.0, 3.0, 5.0, 12.0):
        for num_steps in (1, 2, 3, 8, 50):
            spec = scheduler_spec(class_name, shift, **config)
            ours, theirs = (kind(spec, num_steps, shift, seeded(), CPU) for kind in (make_sampler, DiffusersSampler))
            assert isinstance(ours, SolverSampler)
            assert torch.allclose(ours.sigmas, theirs.sigmas, rtol=0, atol=2e-7)
            assert torch.allclose(ours.timesteps, theirs.timesteps.float(), rtol=0, atol=2e-4)
            latents = torch.randn(1, 4, 2, 4, 4, generator=seeded())
            for call, time in enumerate(theirs.timesteps):
                velocity = torch.sin(3 * latents + time / 200) - latents / 4
                mine, latents = (sampler.step(call, velocity, latents) for sampler in (ours, theirs))
                assert (mine - latents).abs().max() < (OF_HEUN if "Heun" in class_name else LARGEST)


@pytest.mark.parametrize(
    ("class_name", "config"),
    [
        (UNIPC, {"use_karras_sigmas": True}),
        (UNIPC, {"prediction_type": "epsilon"}),
        (UNIPC, {"solver_type": "bh1"}),
        (UNIPC, {"solver_order": 4}),
        (UNIPC, {"lower_order_final": False}),
        (UNIPC, {"num_train_timesteps": 900}),
        (DPM, {"solver_order": 3}),
        (DPM, {"algorithm_type": "dpmsolver"}),
        (EULER, {"use_dynamic_shifting": True}),
        (EULER, {"invert_sigmas": True}),
        ("FlowMatchLCMScheduler", {"scale_factors": [0.5]}),
        ("DPMSolverSinglestepScheduler", {}),
    ],
    ids=str,
)
def test_what_is_set_otherwise_is_left_to_diffusers(class_name: str, config: dict[str, Any]) -> None:
    assert find_solver(class_name, scheduler_spec(class_name, **config).config) is None


def test_the_flow_must_be_asked_for() -> None:
    """Where a configuration says nothing, diffusers' schedulers solve something else."""
    for key in ("prediction_type", "use_flow_sigmas"):
        config = dict(scheduler_spec(UNIPC).config)
        del config[key]
        assert find_solver(UNIPC, config) is None


def test_a_step_is_a_function_of_what_it_is_given() -> None:
    """So the same call twice gives the same, and leaves what it was given as it was."""
    for class_name, config in SETTINGS:
        spec = scheduler_spec(class_name, **config)
        solver = find_solver(class_name, spec.config)
        assert solver is not None
        flow = Flow()
        sampler = make_sampler(spec, 4, 5.0, flow.generator, CPU)
        schedule = solver.schedule(solver.sigmas(4, 5.0))
        latents = flow.follow(sampler, flow.noise, range(2))
        assert isinstance(sampler, SolverSampler)
        state, velocity, noise = sampler._state, torch.randn_like(latents), torch.randn_like(latents)
        before = latents.clone(), [each.clone() for each in state.predictions]
        call = sampler.calls(2)[0]
        one, other = (solver.step(schedule, call, velocity, latents, state, noise.clone) for _ in range(2))
        assert torch.equal(one[0], other[0]) and torch.equal(latents, before[0])
        assert all(map(torch.equal, state.predictions, before[1]))
