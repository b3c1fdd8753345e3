"""Whole generations at full size on fake CUDA tensors, within a budget: all that a rank holds, stage by stage."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import msgspec
import pytest

from ringlight.core.eight_bit import KINDS
from ringlight.core.lora import Lora
from ringlight.core.portions import MAX_ELEMENTS
from ringlight.core.request import VideoRequest
from ringlight.families.model import ModelSpec
from ringlight.families.table import known_model
from ringlight.families.work import Work
from ringlight.planner import catalogue
from ringlight.planner.hardware import Hardware, RunSettings
from ringlight.planner.machine import Machine
from ringlight.planner.memory import LATENTS_HELD
from ringlight.planner.prediction import Prediction, predict
from tests.fake_cuda.device import on_fake_cuda
from tests.fake_cuda.generation import Generation, lora_shapes
from tests.fake_cuda.networks import Size, case_name
from tests.fake_cuda.watch import Seen
from tests.planner.specs import REAL, layout, request

PAGE, LONG, SMALL = Size(704, 1280, 25), Size(704, 1280, 121), Size(480, 832, 81)
TEXT_LAYERS = 4  # of a few ranks, each holds what the others do
SHORT = Size(480, 832, 33)
SQUARE, HD = Size(640, 640, 33), Size(720, 1280, 33)
GIB = 2**30


@dataclass(frozen=True)
class Budget:
    """A video within so many GB of each rank of RTX 4090 cards; 0.1 GB is more than nothing, and gets the plan that
    needs least. Of few blocks each holds what all would."""

    size: Size
    gigabytes: float
    layout: str = "u1r1"
    num_blocks: int = 4
    model: str = REAL.name
    lora_rank: int = 0
    held: tuple[str, ...] = ()

    @property
    def spec(self) -> ModelSpec:
        spec = known_model(self.model)
        held = dict.fromkeys(self.held, KINDS["F8_E4M3"])
        transformer = msgspec.structs.replace(spec.transformer, num_layers=self.num_blocks, held=held)  # type: ignore[type-var]
        text_encoder = msgspec.structs.replace(spec.text_encoder, num_layers=TEXT_LAYERS)  # type: ignore[type-var]
        return msgspec.structs.replace(spec, transformer=transformer, text_encoder=text_encoder)

    def predicted(self) -> Prediction:
        card = msgspec.structs.replace(catalogue.card("rtx4090"), bus="pcie4x16")
        settings = RunSettings(memory_budget_bytes=int(self.gigabytes * 1e9))
        hardware = Hardware(card=card, link=catalogue.link("pcie4"))
        machine = Machine(hardware=hardware, settings=settings, residency="placed")
        return predict(Work.of(self.spec, self.request), layout(self.layout), machine)

    @property
    def request(self) -> VideoRequest:
        spec, size = self.spec, self.size
        picture = b"\0" if spec.takes_picture else None
        asked = request(spec, num_frames=size.num_frames, width=size.width, height=size.height, image=picture)
        num_bytes = sum(2 * self.lora_rank * sum(shape) for shape in lora_shapes(spec).values())
        loras = (Lora(name="lora", num_bytes=num_bytes),) if self.lora_rank else ()
        return msgspec.structs.replace(asked, lora=loras)

    def run(self, predicted: Prediction) -> dict[str, Seen]:
        return on_fake_cuda(self.generation(predicted).run)

    def generation(self, predicted: Prediction) -> Generation:
        return Generation(self.size, predicted.plan, self.layout, spec=self.spec, lora_rank=self.lora_rank)


def require_as_planned(budget: Budget, predicted: Prediction, seen: dict[str, Seen]) -> None:
    """Every stage holds what is planned beside the sampler's own latents, for none runs here; no tensor is too long."""
    planned = {name: stage.allocated_bytes for name, stage in predicted.worst_memory.stages.items()}
    latents = 4 * math.prod(budget.size.latents(budget.spec))
    denoised = planned["Denoising"] - (LATENTS_HELD - 1) * latents
    decoded = planned["Decoding"] - (LATENTS_HELD // 2 - 1) * latents
    assert denoised == pytest.approx(seen["denoise"].peak_bytes, rel=0.05)
    assert decoded == pytest.approx(seen["decode"].peak_bytes, rel=0.05)
    assert seen["encode"].peak_bytes <= 1.05 * max(planned["TextEncoding"], planned.get("ImageEncoding", 0))
    assert max(each.reach for each in seen.values()) <= MAX_ELEMENTS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gigabytes", "gib", "name", "num_blocks"), [(10, 9.31, "u1r1", 8), (6, 5.59, "u1r2", REAL.transformer.num_layers)]
)
def test_the_page_runs_within_ten_gigabytes_and_on_two_cards_within_six(
    gigabytes: int, gib: float, name: str, num_blocks: int
) -> None:
    """Nothing of the bus is waited for in Denoising. Where blocks come and go, all thirty of them run; where all of
    them stay, some of them, and each more holds its weights."""
    budget = Budget(PAGE, gigabytes, name, num_blocks=REAL.transformer.num_layers)
    predicted = budget.predicted()
    assert predicted.fits and predicted.placement is not None
    assert predicted.worst_memory.peak_allocated_bytes <= gib * GIB
    denoising = next(stage for stage in predicted.stages if stage.name == "Denoising")
    assert denoising.bus_exposed_seconds <= 0.01 * denoising.seconds
    is_whole = num_blocks == REAL.transformer.num_layers
    assert is_whole == (predicted.placement.streamed_blocks > 0)
    some = replace(budget, num_blocks=num_blocks)
    seen = some.run(some.predicted())
    require_as_planned(some, some.predicted(), seen)
    assert max(each.peak_bytes for each in seen.values()) <= gib * GIB


@pytest.mark.slow
@pytest.mark.parametrize(
    "budget",
    [
        Budget(LONG, 0.1, "u2r1"),
        Budget(SMALL, 0.1, "c2u1r1"),
        Budget(SQUARE, 20, model="Wan2.2-T2V-A14B"),
        Budget(HD, 18, "u1r2", model="Wan2.2-I2V-A14B"),
    ],
    ids=case_name,
)
def test_a_generation_within_a_budget_holds_what_is_planned(budget: Budget) -> None:
    predicted = budget.predicted()
    assert predicted.placement is not None and (predicted.placement.streamed_blocks > 0 or budget.gigabytes > 1)
    require_as_planned(budget, predicted, budget.run(predicted))


@pytest.mark.slow
def test_denoising_with_loras_holds_what_is_planned() -> None:
    """Larger than any that people have, merged into what is plain and on the fly where it is in eight bits."""
    budget = Budget(SHORT, 0.1, num_blocks=2, lora_rank=1024, held=("to_qkv", "down"))
    predicted = budget.predicted()
    seen = on_fake_cuda(budget.generation(predicted).denoised)
    latents = 4 * math.prod(budget.size.latents(budget.spec))
    planned = predicted.worst_memory.stages["Denoising"].allocated_bytes - (LATENTS_HELD - 1) * latents
    assert planned == pytest.approx(seen.peak_bytes, rel=0.05)
    (lora,) = budget.request.lora
    assert lora.num_bytes > 0.1 * planned  # to leave it out would show
