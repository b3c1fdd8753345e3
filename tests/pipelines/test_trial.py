"""Which schedulers a checkpoint may name: all that solve the flow, in few and many steps and at every usual shift."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ringlight.core.errors import InvalidCheckpoint, InvalidInstallation
from ringlight.core.scheduler import SchedulerSpec
from ringlight.pipelines.trial import CPU, Flow, require_sampler
from ringlight.samplers.choosing import make_sampler
from ringlight.samplers.sampler import SolverSampler
from ringlight.samplers.schedule import Schedule
from ringlight.samplers.solver import Draw, State
from ringlight.samplers.unipc import UniPc
from tests.ours import load_pipeline
from tests.samplers import NOISY, SAMPLERS, all_schedulers, sampler_spec, scheduler_spec

CHECKPOINT = Path("checkpoint")
SHIFTS = [1.0, 3.0, 5.0, 12.0]


def refusal(spec: SchedulerSpec) -> str:
    """The one line that a checkpoint with this scheduler is refused with."""
    with pytest.raises(InvalidCheckpoint) as caught:
        require_sampler(spec, CHECKPOINT)
    message = str(caught.value)
    assert message.startswith(f"checkpoint/scheduler: {spec.class_name} ")
    assert "\n" not in message
    return message


@pytest.mark.slow
def test_every_scheduler_of_diffusers_is_refused_or_among_those_that_are_tested_here() -> None:
    """Also where the file says all that a flow model's says."""
    accepted = set()
    for name in all_schedulers():
        try:
            require_sampler(scheduler_spec(name), CHECKPOINT)
            accepted.add(name)
        except InvalidCheckpoint:
            continue
    assert accepted == {class_name for class_name, _ in SAMPLERS.values()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "lcm" else pytest.mark.slow) for name in SAMPLERS]
)
def test_what_solves_the_flow_is_taken_at_every_shift(name: str) -> None:
    for shift in SHIFTS:
        require_sampler(sampler_spec(name, shift), CHECKPOINT)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_in_few_and_many_steps_it_ends_where_all_data_are(name: str) -> None:
    """What the trial relies on, at other numbers of steps than its own; each call of the network is of one step."""
    for num_steps in (1, 2, 3, 50):
        flow = Flow()
        sampler = make_sampler(sampler_spec(name), num_steps, 5.0, flow.generator, CPU)
        assert [call for step in range(num_steps) for call in sampler.calls(step)] == [*range(len(sampler.timesteps))]
        off = (flow.follow(sampler, flow.noise, range(num_steps)) - flow.means).abs()
        assert off[flow.deviations == 0].max() < 0.02


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_noisy_ones_are_those_that_draw(name: str) -> None:
    flow = Flow()
    before = flow.generator.get_state()
    flow.follow(make_sampler(sampler_spec(name), 3, 5.0, flow.generator, CPU), flow.noise, range(3))
    assert torch.equal(flow.generator.get_state(), before) == (name not in NOISY)


UNIPC, EULER, LCM = "UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler"


@pytest.mark.parametrize(
    ("class_name", "config", "words"),
    [
        (UNIPC, {"use_flow_sigmas": False, "prediction_type": "epsilon"}, 'prediction_type is "epsilon", use_flow_sig'),
        (
            UNIPC,
            {"use_flow_sigmas": False},
            "no flow sigmas.*; use_flow_sigmas is false; take the scheduler of the pub",
        ),
        (UNIPC, {"prediction_type": "v_prediction"}, 'in a trial of 4 steps it ends 2 off; prediction_type is "v_pred'),
        (UNIPC, {"predict_x0": False}, "cannot predict flow"),
        (UNIPC, {"use_karras_sigmas": True}, "takes no flow shift.*use_karras_sigmas is true"),
        (UNIPC, {"use_exponential_sigmas": True}, "no flow sigmas.*use_exponential_sigmas is true"),
        (UNIPC, {"use_beta_sigmas": True}, "use_beta_sigmas is true"),
        (UNIPC, {"thresholding": True}, "does not follow the flow.*thresholding is true"),
        (UNIPC, {"use_dynamic_shifting": True}, "`mu` must be passed.*use_dynamic_shifting is true"),
        (UNIPC, {"final_sigmas_type": "sigma_min"}, "stops at sigma 0.63.*noise would be left.*final_sigmas_type is"),
        (UNIPC, {"num_train_timesteps": 900}, "told a wrong time; num_train_timesteps is 900"),
        (UNIPC, {"solver_type": "bh1"}, "not finite, in a trial of 4 steps"),
        (UNIPC, {"solver_order": "two"}, "cannot be run"),
        (EULER, {"invert_sigmas": True}, "stops at sigma 1.*invert_sigmas is true"),
        (EULER, {"use_dynamic_shifting": True}, "`mu` must be passed.*use_dynamic_shifting is true"),
        (LCM, {"scale_factors": [0.5, 0.5, 0.5]}, "scale_factors is"),
        ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}, "no flow sigmas.*use_lu_lambdas is true"),
        ("DPMSolverMultistepScheduler", {"thresholding": True}, "does not follow the flow.*thresholding is true"),
        ("EulerDiscreteScheduler", {}, "no flow sigmas"),
        ("EulerDiscreteScheduler", {"prediction_type": "epsilon"}, 'no flow sigmas.*prediction_type is "epsilon"'),
        ("HeunDiscreteScheduler", {}, "no flow sigmas"),
        ("LCMScheduler", {}, "no flow sigmas"),
        ("DDIMScheduler", {}, "no flow sigmas"),
        ("CMStochasticIterativeScheduler", {}, "no flow sigmas"),
        ("SASolverScheduler", {}, "stops at sigma 0.62 in 4 steps, so that noise would be left in videos"),
        ("DEISMultistepScheduler", {}, "stops at sigma 0.62 in 4 steps, so that noise would be left in videos"),
    ],
)
def test_what_solves_something_else_is_refused_with_the_reason(
    class_name: str, config: dict[str, Any], words: str
) -> None:
    assert re.search(words, refusal(scheduler_spec(class_name, **config)))


class Unseeded(UniPc):
    """A planted bug: noise comes from where no seed reaches."""

    def step(
        self, schedule: Schedule, call: int, velocity: Tensor, latents: Tensor, state: State, draw: Draw
    ) -> tuple[Tensor, State]:
        after, state = super().step(schedule, call, velocity, latents, state, draw)
        return after + 1e-3 * torch.randn_like(latents) * (call == 0), state


class Forgetful(SolverSampler):
    """A planted bug: what it remembers is not all that it needs."""

    def memory(self) -> dict[str, Any]:
        return super().memory() | {"latents": None}


@pytest.mark.parametrize("bug", [Unseeded, Forgetful])
def test_planted_bugs_show(bug: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringlight.samplers.choosing." + bug.__mro__[1].__name__, bug)
    assert "does not repeat itself" in refusal(sampler_spec("unipc"))


def test_without_diffusers_our_own_solvers_are_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringlight.samplers.choosing.find_spec", lambda name: None)
    require_sampler(sampler_spec("unipc"), CHECKPOINT)
    said = refusal(sampler_spec("dpm-single"))
    assert re.search(r"none of our own \(DPMSolverMulti.*not installed: pip install 'ringlight\[diffusers\]'", said)
    assert "use_karras_sigmas" not in said


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SchedulerSpec(config={}, class_name="MagicScheduler", flow_shift=5.0, flow_shift_key="flow_shift")
    assert "is no scheduler of diffusers" in refusal(spec)


def test_a_diffusers_that_cannot_be_imported_is_no_fault_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "diffusers.py").write_text("raise RuntimeError('compiled against ABI 0x1')")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("ringlight.samplers.adapter", "diffusers"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(InvalidInstallation, match="diffusers cannot be imported"):
        require_sampler(sampler_spec("dpm-single"), CHECKPOINT)


def test_it_is_tried_when_the_model_is_loaded(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "checkpoint", ignore=shutil.ignore_patterns("*.safetensors"))
    path = tmp_path / "checkpoint" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_flow_sigmas": False}))
    with pytest.raises(InvalidCheckpoint, match="use_flow_sigmas is false"):
        load_pipeline(tmp_path / "checkpoint")
