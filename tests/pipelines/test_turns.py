"""Jobs that make way for each other between their steps: to the bit what each makes alone."""

from __future__ import annotations

import gc
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ringlight.core.layout import ParallelLayout
from ringlight.families.model import ModelSpec
from ringlight.parallel.mesh import ParallelMesh
from ringlight.pipelines.resume import StateFile
from ringlight.pipelines.trace import Tracer
from ringlight.pipelines.turn import Left, Turns, tensor_bytes
from ringlight.worker.memory import ResidentMeter
from tests.ours import CPU, final_latents, load_pipeline, new_tracer
from tests.parallel.ranks import on_ranks
from tests.pipelines.resuming import Watched, control_of, latents_in, run
from tests.pipelines.test_resume import request_for
from tests.pipelines.turning import STEPS, Giving, Job, in_turns, jobs_of, require_the_same
from tests.samplers import with_sampler


@pytest.mark.parametrize("sampler", ["unipc", "heun"])
def test_each_of_two_is_what_it_is_alone(
    tiny: Path, spec: ModelSpec, photograph: Path, tmp_path: Path, sampler: str
) -> None:
    """One with a picture and one without, of other sizes; also where a step is two calls of the network."""
    pipeline = with_sampler(load_pipeline(tiny), sampler)
    first = request_for(spec, photograph, num_inference_steps=STEPS)
    second = request_for(spec, None, num_inference_steps=STEPS, num_frames=1, height=64, guidance_scale=1.0)
    jobs = jobs_of(tmp_path, [first, second])
    in_turns(pipeline, jobs)
    require_the_same(pipeline, tmp_path, jobs)
    for job in jobs:
        assert job.events.stages[-STEPS - 3 :] == ["Denoising"] * (STEPS + 2) + ["Output"]
        assert len({left.held_bytes for left in job.left[1:]}) <= STEPS  # keys, latents, and what a sampler remembers
        latents = load_file(job.output)["latents"]
        assert all(left.held_bytes > latents.nbytes for left in job.left)
        assert job.left[0].held_bytes < job.left[1].held_bytes  # keys of texts are made before the first step


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["u2r1", "u1r2", "c2u1r1"])
def test_over_many_ranks(tiny: Path, spec: ModelSpec, photograph: Path, tmp_path: Path, layout: str) -> None:
    pipeline = load_pipeline(tiny)
    requests = [request_for(spec, picture, num_inference_steps=STEPS) for picture in (photograph, None)]
    jobs = jobs_of(tmp_path, requests)

    def work(mesh: ParallelMesh) -> Tensor:
        in_turns(pipeline, jobs, mesh)
        for number, job in enumerate(jobs):
            pipeline.run(job.request, tmp_path / f"alone_{number}.safetensors", "job", new_tracer(), mesh)
        return torch.zeros(1)

    on_ranks(ParallelLayout.parse(layout), work)
    for number, job in enumerate(jobs):
        made, alone = load_file(job.output), load_file(tmp_path / f"alone_{number}.safetensors")
        assert torch.equal(made["latents"], alone["latents"])


def test_the_state_is_saved_at_the_end_of_a_turn(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    """Whatever else is saved, and when; another process goes on from it. What was given up leaves nothing behind."""
    pipeline, request = load_pipeline(tiny), request_for(spec, None, num_inference_steps=STEPS)
    latents, events, alone = tmp_path / "latents.safetensors", Giving(), ParallelMesh.alone()
    tracer = Tracer(CPU, ResidentMeter(), events)
    path = tmp_path / "state.safetensors"
    state = StateFile(path, 1e9, "this very job", "job", control_of(alone), tracer)
    with closing(pipeline.make(request, latents, "job", tracer, alone, state=state)) as making:
        for step in (0, 1, 2):
            events.begin_turn()
            assert next(making).step == step
            state.wait()
            assert events.saved == [*range(step + 1)]
    assert list(tmp_path.iterdir()) == [path]
    after = Watched()
    assert run(pipeline, request, tmp_path, alone, after).resumed_from_step == 2
    assert torch.equal(latents_in(tmp_path), final_latents(pipeline, request, tmp_path))


def test_a_stage_is_timed_without_what_lies_between_its_turns() -> None:
    tracer = new_tracer()

    def stage() -> Turns[str]:
        for step in range(3):
            yield Left(step, 0)
        return "made"

    def job() -> Turns[str]:
        return (yield from tracer.timed_in_turns("Denoising", stage()))

    turns, made = job(), None
    while made is None:
        tracer.clock.go_on()
        try:
            next(turns)
        except StopIteration as end:
            made = end.value
        tracer.clock.stop()
        before = tracer.clock.now()
        assert tracer.clock.now() == before  # it stands still
    assert (made, tracer.clock.pauses) == ("made", 4)
    assert [stage.name for stage in tracer.stages] == ["Denoising"]
    assert 0 < tracer.stages[0].seconds <= tracer.clock.now()


def test_no_memory_is_counted_twice() -> None:
    whole = torch.zeros(10, dtype=torch.float32)
    assert tensor_bytes({"a": whole, "b": [whole[:3], (torch.zeros(2, dtype=torch.uint8),)], "c": 7, "d": None}) == 42


def alive() -> dict[int, int]:
    """Bytes of all memory that tensors of this process have, by where it begins."""
    found = {}
    for each in gc.get_objects():
        if type(each) is Tensor and not each.is_meta and each.layout == torch.strided:
            found[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
    return found


def test_it_keeps_what_it_says_and_no_more(tiny: Path, spec: ModelSpec, tmp_path: Path) -> None:
    """Embeddings of texts are a cache's."""
    pipeline = load_pipeline(tiny)
    job = Job(
        request_for(spec, None, width=256, height=160, num_frames=17, num_inference_steps=STEPS), tmp_path / "a.mp4"
    )
    before, kept = alive(), []

    def look(job: Job) -> None:
        kept.append(sum(num_bytes for place, num_bytes in alive().items() if place not in before))

    in_turns(pipeline, [job], between=look)
    assert [left.held_bytes for left in job.left] == [pytest.approx(num_bytes, rel=0.05) for num_bytes in kept[1:]]
