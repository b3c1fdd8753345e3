"""Tracing: each video that is over as an OpenTelemetry trace, built from its report and sent over OTLP/HTTP.

    video            from accepted to over
    ├── Queued       from accepted to taken up
    ├── TextEncoding, Denoising, Decoding, ...   the stages of rank 0, one after another
    └── Uploading    from whole on the disk to stored, where it goes to an object store

OpenTelemetry is imported only where an endpoint is given.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import ringlight
from ringlight.core.errors import InvalidSetting
from ringlight.core.report import RunReport
from ringlight.server.collection.stored import StoredJob

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

TRACES_PATH = "/v1/traces"
TIMEOUT_SECONDS = 5.0  # of one export; closing takes two at most
MAX_SPANS = 512  # that wait to be exported; more are dropped
MAX_FOLLOWED = 10_000

Attributes = dict[str, str | int | float]


class Tracing:
    """Exporter of traces in the background. Safe to use from any thread; close it."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("ringlight", ringlight.__version__)
        self._in_span = trace.set_span_in_context
        self._extract = TraceContextTextMapPropagator().extract
        self._error = trace.StatusCode.ERROR
        self._parents: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def follow(self, video_id: str, traceparent: str | None) -> None:
        """Make a video's trace part of its caller's, whose `traceparent` header this is; anything else is ignored."""
        if traceparent:
            with self._lock:
                self._parents[video_id] = traceparent
                if len(self._parents) > MAX_FOLLOWED:
                    self._parents.popitem(last=False)

    def record(self, job: StoredJob, report: RunReport | None) -> None:
        """Export the trace of a job that is over. Returns at once."""
        with self._lock:
            parent = self._parents.pop(job.id, "")
        ended_at = max(job.completed_at or 0.0, job.created_at)  # whatever was done to the clock in between
        run_seconds = 0.0 if report is None else report.total_seconds
        made_at = ended_at if job.made_at is None else min(ended_at, job.made_at)
        began_at = made_at - run_seconds
        video = self._tracer.start_span(
            "video",
            self._extract({"traceparent": parent}),
            start_time=_nanoseconds(job.created_at),
            attributes=_about(job) | ({} if report is None else _measured(report)),
        )
        inside = self._in_span(video)

        def span(name: str, start: float, end: float, attributes: Attributes | None = None) -> None:
            each = self._tracer.start_span(name, inside, start_time=_nanoseconds(start), attributes=attributes)
            each.end(_nanoseconds(end))

        taken_up_at = job.started_at if job.started_at is not None else began_at
        span("Queued", job.created_at, max(job.created_at, taken_up_at))
        for stage in [] if report is None else report.stages:
            span(stage.name, began_at, began_at + stage.seconds, {"ringlight.memory.peak_bytes": stage.peak_bytes})
            began_at += stage.seconds
        if job.made_at is not None:
            span("Uploading", made_at, ended_at)
        if job.error is not None:
            video.set_status(self._error, job.error.message)
            video.set_attribute("error.type", job.error.code)
        video.end(_nanoseconds(ended_at))

    def close(self) -> None:
        """Export what waits, for a few seconds at most."""
        self._provider.shutdown()


def check_endpoint(endpoint: str) -> None:
    """Raise InvalidSetting for what is no URL, and if OpenTelemetry is not installed. "" is not checked."""
    if not endpoint:
        return
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidSetting(f"--otlp-endpoint {endpoint!r} must be an http(s) URL, such as http://127.0.0.1:4318")
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401 (only whether it can be)
    except ImportError as error:
        raise InvalidSetting(f"--otlp-endpoint needs OpenTelemetry ({error}): pip install 'ringlight[otel]'") from None


def configure_tracing(endpoint: str) -> Tracing | None:
    """Tracing to a collector such as http://127.0.0.1:4318; None without an endpoint. Raises as check_endpoint does."""
    if not endpoint:
        return None
    check_endpoint(endpoint)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    url = endpoint if urlsplit(endpoint).path.endswith(TRACES_PATH) else endpoint.rstrip("/") + TRACES_PATH
    about = {"service.name": "ringlight", "service.version": ringlight.__version__}
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=url, timeout=TIMEOUT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=MAX_SPANS, max_export_batch_size=MAX_SPANS))
    return Tracing(provider)


def _about(job: StoredJob) -> Attributes:
    request = job.request
    return {
        "ringlight.video.id": job.id,
        "ringlight.model": job.model,
        "ringlight.layout": job.layout,
        "ringlight.width": request.width,
        "ringlight.height": request.height,
        "ringlight.num_frames": request.num_frames,
        "ringlight.num_inference_steps": request.num_inference_steps,
        "ringlight.deaths": job.deaths,
    }


def _measured(report: RunReport) -> Attributes:
    """Attributes of a report beside the times of stages; traffic is the worst rank's."""
    found: Attributes = {
        "ringlight.num_tokens": report.num_tokens,
        "ringlight.resumed_from_step": report.resumed_from_step,
        "ringlight.pauses": report.pauses,
        "ringlight.paused_seconds": report.paused_seconds,
        "ringlight.memory.peak_bytes": report.worst_memory.peak_bytes,
    }
    for kind, link in report.worst_link.items():
        found[f"ringlight.link.{kind}.wait_seconds"] = link.wait_seconds
        found[f"ringlight.link.{kind}.sent_bytes"] = link.sent_bytes
    return found


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
