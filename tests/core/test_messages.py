"""What crosses the corridor comes out as it went in, and nothing else comes out."""

from __future__ import annotations

import msgspec
import pytest

from ringlight.core import messages
from ringlight.core.config import EngineConfig
from ringlight.core.errors import Problem
from ringlight.core.layout import ParallelLayout
from ringlight.core.plan import Abilities, JobPlan, PredictedReport, Speeds
from ringlight.core.request import RequestLimits, VideoRequest
from ringlight.core.video_fields import MAX_SEED
from ringlight.core.warning import prompt_truncated
from tests.core.test_report import CPU, GPU, report

REQUEST = VideoRequest(
    prompt='灯台 🗼\n"quoted"',
    negative_prompt="",
    width=256,
    height=160,
    num_frames=17,
    fps=24,
    num_inference_steps=8,
    guidance_scale=5.0,
    flow_shift=0.1,
    seed=MAX_SEED,
    image=bytes(range(256)),
)
PREDICTED = PredictedReport(basis="H100", stages={"Denoising": 30.0}, total_seconds=81.0, peak_bytes=2**30)
TO_WORKER: list[messages.ToWorker] = [
    messages.RunJob(job_id="video_1", request=REQUEST, output="/tmp/film.mp4"),
    messages.RunJob(
        job_id="video_2",
        request=msgspec.structs.replace(REQUEST, image=None),
        output="film.npy",
        layout=ParallelLayout(cfg=2, ulysses=3, ring=5),
        plan=JobPlan(num_slices=4, take_turns=True, decode_chunk=8, predicted=PREDICTED, layout_reason="c2u3r5: asked"),
        state_file="/tmp/state.safetensors",
        save_seconds=0.5,
        preview_seconds=2.0,
        continues="/tmp/before.mp4",
    ),
    messages.Ping(number=3),
    messages.PauseJob(job_id="video_1"),
    messages.PauseJob(job_id="video_1", now=True),
    messages.ResumeJob(job_id="video_1"),
    messages.DropJob(job_id="video_1"),
    messages.CancelJob(job_id="video_1"),
    messages.Shutdown(),
    messages.FilePart(parcel=3, job_id="video_1", kind="state", file=0, offset=2**18, content=bytes(range(256))),
    messages.FilePart(parcel=3, job_id="video_1", kind="source", file=1, checksum="0badcafe"),
    messages.PartTaken(parcel=3),
]
FROM_WORKER: list[messages.FromWorker] = [
    messages.WorkerReady(environment={"device": "cpu", "versions": {"torch": "2"}, "cuda": None}, load_seconds=1.5),
    messages.WorkerReady(
        environment={},
        load_seconds=1.5,
        checkpoint="0123456789ab",
        abilities=Abilities(spare_bytes=2**40, speeds=Speeds(link_bytes_per_second=25e9, flops_per_second=4e14)),
    ),
    messages.NodesAwaited(nodes=[1, 3], remark="node 1 (10.0.0.2) was refused: another checkpoint"),
    messages.StageStarted(job_id="video_1", stage="Denoising"),
    messages.Warned(job_id="video_1", warning=prompt_truncated("prompt", 600, 512)),
    messages.StepFinished(job_id="video_1", step=1, num_steps=8, seconds=0.25),
    messages.StateSaved(job_id="video_1", step=1),
    messages.JobPaused(job_id="video_1", step=1, held_bytes=2**20),
    messages.JobDropped(job_id="video_1"),
    messages.FilePart(parcel=0, job_id="video_1", kind="output", file=120, content=b""),
    messages.PartTaken(parcel=0, errno=28, problem="No space left on device"),
    messages.PreviewMade(job_id="video_1", step=1, picture=bytes(range(256))),
    messages.FramesDecoded(job_id="video_1", num_done=5, num_frames=17),
    messages.Computed(job_id="video_1"),
    messages.Pong(number=3),
    messages.JobCompleted(job_id="video_1", report=report(CPU)),
    messages.JobCompleted(job_id="video_1", report=report(GPU, GPU)),
    messages.JobFailed(job_id="video_1", code="cancelled", message="cancelled"),
    messages.JobFailed(
        job_id="video_1",
        code="invalid_request",
        message="height: is odd",
        problems=[Problem("height", "is odd", "704"), Problem("prompt", "is empty")],
    ),
    messages.WorkerFailed(code="invalid_checkpoint", message="weights: missing"),
    messages.GroupBroken(rank=3, code="out_of_memory", message="does not fit", is_cause=True),
    messages.PlaceLost(rank=3, message="the raylet on 10.0.0.2 has ended"),
]


def name_of(message: object) -> str:
    return type(message).__name__


@pytest.mark.parametrize("message", TO_WORKER, ids=name_of)
def test_what_is_sent_to_a_worker(message: messages.ToWorker) -> None:
    assert messages.to_worker_decoder.decode(messages.encode(message)) == message


@pytest.mark.parametrize("message", FROM_WORKER, ids=name_of)
def test_what_a_worker_sends(message: messages.FromWorker) -> None:
    assert messages.from_worker_decoder.decode(messages.encode(message)) == message


def test_all_kinds_are_covered() -> None:
    assert {type(message) for message in TO_WORKER} == set(messages.ToWorker.__args__)
    assert {type(message) for message in FROM_WORKER} == set(messages.FromWorker.__args__)


def test_a_message_of_the_other_direction_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        messages.to_worker_decoder.decode(messages.encode(FROM_WORKER[1]))
    with pytest.raises(msgspec.ValidationError):
        messages.from_worker_decoder.decode(messages.encode(TO_WORKER[0]))
    with pytest.raises(msgspec.ValidationError):
        messages.to_worker_decoder.decode(msgspec.msgpack.encode({"type": "Evaluate", "code": "1"}))


def test_what_a_worker_is_told_on_its_command_line() -> None:
    setup = messages.WorkerSetup(
        config=EngineConfig(model_path="/a model/päth", device="cpu", num_threads=1, decode_chunk=2),
        limits=RequestLimits(max_frames=5),
        place=messages.RankPlace(
            rank=5, num_ranks=8, local_rank=1, num_local=4, host="fd00::1", port=29500, listener=7
        ),
    )
    assert msgspec.json.decode(msgspec.json.encode(setup), type=messages.WorkerSetup) == setup


def test_a_setup_with_an_unknown_value_is_refused() -> None:
    text = msgspec.json.encode({"config": {"model_path": "x", "device": "tpu"}, "limits": {}})
    with pytest.raises(msgspec.ValidationError, match="device"):
        msgspec.json.decode(text, type=messages.WorkerSetup)
