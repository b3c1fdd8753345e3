"""Tracing: what a collector gets for a video that is over, read back from the protobuf that was really sent."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

import ringlight
from ringlight.core.errors import InvalidSetting
from ringlight.core.report import LinkReport, MemoryReport, RankReport, RunReport, StageReport
from ringlight.core.request import VideoRequest
from ringlight.server.collection.stored import StoredJob
from ringlight.server.observability.tracing import Tracing, configure_tracing
from ringlight.wire.video import VideoError

START = 1_790_000_000.0
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(ThreadingHTTPServer):
    """Keeps what is exported to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[tuple[str, ExportTraceServiceRequest]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> dict[str, Span]:
        found = [
            span
            for _, message in self.received
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        assert len({span.name for span in found}) == len(found)
        return {span.name: span for span in found}


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.01,))
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def tracing_to(endpoint: str) -> Tracing:
    tracing = configure_tracing(endpoint)
    assert tracing is not None
    return tracing


JOB = StoredJob(
    id="video_1",
    owner="alice",
    status="completed",
    request=VideoRequest(
        prompt="a cat",
        negative_prompt="",
        width=1280,
        height=704,
        num_frames=121,
        fps=24,
        num_inference_steps=40,
        guidance_scale=5.0,
        flow_shift=5.0,
        seed=1,
    ),
    model="wan",
    layout="u1r2",
    created_at=START,
    started_at=START + 10,
    completed_at=START + 60,
    deaths=1,
)
STAGES = {"TextEncoding": 1.5, "Denoising": 40.0, "Decoding": 8.25}


def report() -> RunReport:
    def rank(number: int) -> RankReport:
        memory = MemoryReport(rank=number, device="cuda", peak_reserved_bytes=(number + 1) * 2**30)
        return RankReport(
            rank=number, stages=[], memory=memory, link={"ring": LinkReport(sent_bytes=10, wait_seconds=0.5 + number)}
        )

    return RunReport(
        workload={},
        workload_hash="0" * 64,
        layout="u1r2",
        environment={},
        stages=[StageReport(name=name, seconds=seconds, peak_bytes=7) for name, seconds in STAGES.items()],
        other_seconds=0.25,
        total_seconds=50.0,
        step_seconds=[1.0] * 40,
        ranks=[rank(0), rank(1)],
        num_tokens=27_280,
        outputs=["video.mp4"],
    )


def attributes(span: Span) -> dict[str, str | int | float]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def times(span: Span) -> tuple[float, float]:
    return (span.start_time_unix_nano / 1e9 - START, span.end_time_unix_nano / 1e9 - START)


def test_a_completed_video_is_a_span_with_its_stages_inside(collector: Collector) -> None:
    tracing = tracing_to(collector.url)
    tracing.record(JOB, report())
    tracing.close()
    spans = collector.spans()
    video = spans["video"]
    assert list(spans) == ["Queued", *STAGES, "video"]
    assert {span.trace_id for span in spans.values()} == {video.trace_id}
    assert {span.parent_span_id for name, span in spans.items() if name != "video"} == {video.span_id}
    assert video.parent_span_id == b""
    close = {name: pytest.approx(times(span), abs=1e-5) for name, span in spans.items()}
    assert close == {
        "video": (0, 60),
        "Queued": (0, 10),
        "TextEncoding": (10, 11.5),
        "Denoising": (11.5, 51.5),
        "Decoding": (51.5, 59.75),
    }
    assert video.status.code == Status.STATUS_CODE_UNSET


def test_an_upload_is_a_span_behind_the_stages(collector: Collector) -> None:
    tracing = tracing_to(collector.url)
    tracing.record(msgspec.structs.replace(JOB, made_at=START + 60, completed_at=START + 95), report())
    tracing.close()
    spans = collector.spans()
    close = {name: pytest.approx(times(span), abs=1e-5) for name, span in spans.items()}
    assert close["Decoding"] == (51.5, 59.75)
    assert close["Uploading"] == (60, 95) and close["video"] == (0, 95)


def test_spans_say_what_was_made_and_what_it_took(collector: Collector) -> None:
    tracing = tracing_to(collector.url)
    tracing.record(JOB, report())
    tracing.close()
    assert attributes(collector.spans()["Denoising"]) == {"ringlight.memory.peak_bytes": 7}
    assert attributes(collector.spans()["video"]) == {
        "ringlight.video.id": "video_1",
        "ringlight.model": "wan",
        "ringlight.layout": "u1r2",
        "ringlight.width": 1280,
        "ringlight.height": 704,
        "ringlight.num_frames": 121,
        "ringlight.num_inference_steps": 40,
        "ringlight.deaths": 1,
        "ringlight.num_tokens": 27_280,
        "ringlight.resumed_from_step": 0,
        "ringlight.pauses": 0,
        "ringlight.paused_seconds": 0.0,
        "ringlight.memory.peak_bytes": 2 * 2**30,
        "ringlight.link.ring.wait_seconds": 1.5,
        "ringlight.link.ring.sent_bytes": 10,
    }
    ((path, message),) = collector.received
    resource = {each.key: each.value.string_value for each in message.resource_spans[0].resource.attributes}
    assert path == "/v1/traces"
    assert resource["service.name"] == "ringlight" and resource["service.version"] == ringlight.__version__


@pytest.mark.parametrize("path", ["/v1/traces", "/", ""])
def test_the_path_is_added_where_it_is_missing(collector: Collector, path: str) -> None:
    tracing = tracing_to(collector.url + path)
    tracing.record(JOB, None)
    tracing.close()
    assert [path for path, _ in collector.received] == ["/v1/traces"]


def test_a_failed_video_carries_its_error(collector: Collector) -> None:
    error = VideoError(code="out_of_memory", message="rank 1 needs 3 GiB more")
    tracing = tracing_to(collector.url)
    tracing.record(msgspec.structs.replace(JOB, status="failed", error=error, started_at=None), None)
    tracing.close()
    spans = collector.spans()
    assert list(spans) == ["Queued", "video"]
    assert spans["video"].status.code == Status.STATUS_CODE_ERROR
    assert spans["video"].status.message == "rank 1 needs 3 GiB more"
    assert attributes(spans["video"])["error.type"] == "out_of_memory"
    assert times(spans["Queued"]) == pytest.approx((0, 60), abs=1e-5)


def test_the_callers_trace_goes_on(collector: Collector) -> None:
    tracing = tracing_to(collector.url)
    tracing.follow("video_1", f"00-{TRACE}-{PARENT}-01")
    tracing.follow("video_2", f"00-{'1' * 32}-{PARENT}-01")
    tracing.record(JOB, report())
    tracing.close()
    spans = collector.spans()
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert spans["video"].parent_span_id.hex() == PARENT


@pytest.mark.parametrize(
    "header", [None, "", "nonsense", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{PARENT}", "é" * 99]
)
def test_a_header_that_is_none_begins_a_new_trace(collector: Collector, header: str | None) -> None:
    tracing = tracing_to(collector.url)
    tracing.follow("video_1", header)
    tracing.record(JOB, None)
    tracing.close()
    assert collector.spans()["video"].parent_span_id == b""
    assert collector.spans()["video"].trace_id.hex() != TRACE


def test_a_caller_that_does_not_sample_is_respected(collector: Collector) -> None:
    tracing = tracing_to(collector.url)
    tracing.follow("video_1", f"00-{TRACE}-{PARENT}-00")
    tracing.record(JOB, report())
    tracing.close()
    assert collector.received == []


def test_without_an_endpoint_opentelemetry_is_not_imported() -> None:
    program = (
        "import sys; from ringlight.server.observability.tracing import configure_tracing; "
        "assert configure_tracing('') is None; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    modules = done.stdout.split()
    assert "ringlight.server.observability.tracing" in modules
    assert not [module for module in modules if module.startswith("opentelemetry")]


def test_a_missing_package_is_named() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.sdk'] = None; "
        "from ringlight.server.observability.tracing import configure_tracing; configure_tracing('http://127.0.0.1:1')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "InvalidSetting: --otlp-endpoint needs OpenTelemetry" in done.stderr
    assert "ringlight[otel]" in done.stderr


@pytest.mark.parametrize("endpoint", ["localhost:4318", "grpc://localhost:4317", "http://", "/v1/traces"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidSetting, match="must be an http"):
        configure_tracing(endpoint)


@pytest.mark.slow
def test_a_collector_that_is_not_there_holds_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    with Collector() as nobody:
        gone = nobody.url
    tracing = tracing_to(gone)
    tracing.record(JOB, report())
    tracing.close()
    assert "export" in caplog.text
