"""LoRAs between a request and the workers: found at the door, held to their files, and kept together in the queue."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from ringlight import Engine, EngineConfig
from ringlight.core import messages
from ringlight.core.errors import InvalidRequest, InvalidSetting
from ringlight.core.layout import ParallelLayout
from ringlight.core.lora import Lora
from ringlight.core.request import RequestDefaults, VideoRequest
from ringlight.engine.jobs import Job, Submission
from ringlight.engine.order import MOST_OVERTAKEN
from ringlight.engine.queue import JobQueue
from ringlight.families.model import ModelSpec
from tests.engine.queues import a_queue
from tests.engine.replicas import FakeReplica
from tests.engine.requests import small
from tests.loras import Tensors, write_lora

PATIENCE = 10.0
A, B = ((Lora(name=name, target="both", sha256=name * 64, num_bytes=1),) for name in "ab")


def with_an_image_branch(tensors: Tensors) -> Tensors:
    name = "diffusion_model.blocks.0.cross_attn.k_img"
    return tensors | {f"{name}.lora_down.weight": torch.ones(4, 4), f"{name}.lora_up.weight": torch.ones(4, 4)}


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A folder of three LoRAs: ink, speed, and parts, of which a part is for another model."""
    for seed, name in enumerate(("ink", "speed", "parts")):
        path = tmp_path / "loras" / f"{name}.safetensors"
        change = with_an_image_branch if name == "parts" else dict
        first = "blocks.0.attn1.to_q"
        write_lora(path, tiny / "transformer", modules=first.__eq__, seed=seed, change=change)
    return tmp_path / "loras"


def engine_with(tiny: Path, replica: FakeReplica, folder: Path, *always: str, **settings: object) -> Engine:
    config = EngineConfig(model_path=str(tiny), lora=always, lora_dir=(str(folder),))
    return Engine(config, None, replica, **settings)  # type: ignore[arg-type]


def problem_of(error: pytest.ExceptionInfo[InvalidRequest]) -> str:
    (problem,) = error.value.problems
    assert problem.field == "lora"
    return str(problem)


def waiting(queue: JobQueue, spec: ModelSpec, names: str, priority: int = 0) -> list[Job]:
    """Jobs in a queue, each with the LoRAs of its letter."""
    loras, jobs = {"a": A, "b": B, "-": ()}, []
    for number, name in enumerate(names):
        request = RequestDefaults(seed=0).complete(f"{name}{number}", spec, lora=loras[name])
        asked = Submission(priority=priority)
        job = Job(f"{priority}{name}{number}", request, ParallelLayout.parse("u1r1"), "x.mp4", None, asked)
        queue.put(job)
        jobs.append(job)
    return jobs


def taken(queue: JobQueue, loras: tuple[Lora, ...]) -> Iterator[str]:
    """The letters of the jobs that one replica takes, which has these LoRAs at first."""
    replica = queue.serve("replica-0")
    while (ticket := queue.take(replica, 0.0, loras)) is not None:
        loras = ticket.job.request.lora
        yield ticket.job.request.prompt[0]


@pytest.mark.parametrize(
    ("names", "has", "order"),
    [
        ("abab-", (), "-aabb"),
        ("abab", B, "bbaa"),
        ("aaa", (), "aaa"),
        ("a" + "b" * 6, B, "b" * MOST_OVERTAKEN + "abb"),
        ("ab" + "-" * 6, (), "-" * MOST_OVERTAKEN + "ab--"),
        ("b" + "ab" * 5, A, "a" * MOST_OVERTAKEN + "bbbbbba"),
    ],
)
def test_what_needs_the_same_loras_goes_first_a_few_times(
    spec: ModelSpec, names: str, has: tuple[Lora, ...], order: str
) -> None:
    queue = a_queue()
    waiting(queue, spec, names)
    assert "".join(taken(queue, has)) == order


def test_a_higher_priority_goes_before_the_same_loras(spec: ModelSpec) -> None:
    queue = a_queue()
    waiting(queue, spec, "aa")
    waiting(queue, spec, "bb", priority=1)
    assert "".join(taken(queue, A)) == "bbaa"
    assert [job.overtaken for job in waiting(queue, spec, "ab")] == [0, 0]


def test_one_that_takes_longer_is_not_before_others_for_its_loras(spec: ModelSpec) -> None:
    queue = a_queue()
    for job, steps in zip(waiting(queue, spec, "ab"), (10, 20), strict=True):
        job.receive(messages.StepFinished(job_id=job.id, step=1, num_steps=steps, seconds=1.0))
    assert "".join(taken(queue, B)) == "ab"


def test_a_replica_is_given_what_it_has_until_it_is_started_anew(tiny: Path, folder: Path, tmp_path: Path) -> None:
    replica = FakeReplica(held=True)
    with engine_with(tiny, replica, folder, supervised=True) as engine:

        def ask(prompt: str, *loras: str) -> Job:
            return engine.submit(small(engine, prompt, lora=[*loras]), str(tmp_path / "film.mp4"))

        first = ask("first", "ink")
        assert replica.in_the_middle.wait(PATIENCE)
        jobs = [ask("speed", "speed"), ask("ink", "ink"), ask("other strength", "ink:0.5")]
        assert [engine.position(job) for job in jobs] == [1, 2, 3]
        replica.go_on.set()
        for job in [first, *jobs]:
            job.wait(PATIENCE)
        replica.ready = False  # its workers are lost: new ones have no LoRA
        replica.go_on.clear()
        replica.in_the_middle.clear()
        running = ask("again", "ink:0.5")
        assert replica.in_the_middle.wait(PATIENCE)
        replica.ready, left = False, [ask("then speed", "speed"), ask("then none")]
        replica.go_on.set()
        for job in [running, *left]:
            job.wait(PATIENCE)
    runs = [event.removeprefix("run ") for event in replica.events if event.startswith("run")]
    assert runs == ["first", "ink", "speed", "other strength", "again", "then none", "then speed"]


def test_a_request_names_them_and_has_their_files(tiny: Path, folder: Path, tmp_path: Path) -> None:
    with engine_with(tiny, FakeReplica(), folder, f"{folder}/speed.safetensors:0.5") as engine:
        request = small(engine, lora="ink:-1")
        speed, ink = request.lora
        assert (speed.name, speed.strength, ink.name, ink.strength) == ("speed", 0.5, "ink", -1)
        assert {len(lora.sha256) for lora in request.lora} == {64} and min(lora.num_bytes for lora in request.lora) > 0
        assert small(engine).lora == (speed,)
        for asked, words in {
            "inc": "there is no LoRA inc (nearest: ink)",
            "speed": "speed is always on here",
            "ink:1:high": "has one transformer",
            "../loras/ink": "there is no LoRA",
        }.items():
            with pytest.raises(InvalidRequest, match=re.escape(words)):
                small(engine, lora=asked)
        wrong = small(engine, width=65, height=64)
        with pytest.raises(InvalidRequest) as caught:
            engine.submit(msgspec.structs.replace(wrong, lora=(Lora(name="ink"),)), str(tmp_path / "film.mp4"))
        assert [problem.field for problem in caught.value.problems] == ["width", "lora"]
        assert "Engine.request" in str(caught.value)


def test_a_file_that_changes_is_another_lora(tiny: Path, folder: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "film.mp4")
    with engine_with(tiny, FakeReplica(), folder) as engine:
        request = small(engine, lora="ink")
        (pinned,) = request.lora
        engine.submit(request, output).wait(PATIENCE)
        os.replace(folder / "speed.safetensors", folder / "ink.safetensors")

        def refused(asked: VideoRequest) -> str:
            with pytest.raises(InvalidRequest) as caught:
                engine.submit(asked, output)
            return problem_of(caught)

        assert "ink is another file than was asked for" in refused(request)
        with pytest.raises(InvalidRequest) as caught:
            small(engine, lora={"name": "ink", "sha256": pinned.sha256})
        assert "another file" in problem_of(caught)
        (found,) = small(engine, lora={"name": "ink"}).lora
        assert found.sha256 != pinned.sha256
        assert small(engine, lora={"name": "ink", "sha256": found.sha256}).lora == (found,)
        (folder / "ink.safetensors").unlink()
        said = refused(request)
        assert "not offered any more" in said and str(folder) not in said


def test_a_file_that_is_always_on_and_changes_is_the_operators_to_mend(
    tiny: Path, folder: Path, tmp_path: Path
) -> None:
    output = str(tmp_path / "film.mp4")
    with engine_with(tiny, FakeReplica(), folder, "ink") as engine:
        engine.submit(small(engine), output).wait(PATIENCE)
        os.replace(folder / "speed.safetensors", folder / "ink.safetensors")
        with pytest.raises(InvalidRequest) as caught:
            engine.submit(small(engine), output)
        assert "always on here, was replaced; the server has to be started again" in problem_of(caught)


def test_what_is_taken_in_part_is_told(tiny: Path, folder: Path, tmp_path: Path) -> None:
    with engine_with(tiny, FakeReplica(), folder) as engine:
        job = engine.submit(small(engine, lora=["parts", "ink"]), str(tmp_path / "film.mp4"))
        (warning,) = job.state.warnings
    assert (warning.code, warning.param, warning.given) == ("lora_in_part", "lora", "parts")
    assert "image branch" in warning.message and "image branch" in warning.used


def test_defaults_that_name_none_are_a_mistake_of_the_operator(tiny: Path, folder: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"defaults: lora: there is no LoRA inc .*nearest: ink"):
        engine_with(tiny, FakeReplica(), folder, defaults=RequestDefaults(lora=(Lora(name="inc"),)))
    engine = engine_with(tiny, FakeReplica(), folder, defaults=RequestDefaults(lora=(Lora(name="ink"),)))
    assert [lora.name for lora in engine.request("a boat").lora] == ["ink"]
    assert engine.request("a boat", lora=[]).lora == ()
