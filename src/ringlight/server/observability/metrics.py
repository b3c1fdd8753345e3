"""Metrics for Prometheus: counted as things happen, or read when somebody asks. One prefix, base units, few labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

import ringlight
from ringlight.core.codes import CODES
from ringlight.core.errors import (
    StoreError,
)
from ringlight.core.report import RunReport
from ringlight.engine.job_state import Pauses
from ringlight.engine.runner import SERVING, ReplicaState, ReplicaStatus
from ringlight.server.collection.uploads import UploadTally
from ringlight.server.collection.videos import Videos

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
STATES: Sequence[ReplicaStatus] = ("starting", "ready", "busy", "lost", "failed")
WEBHOOK_OUTCOMES = ("delivered", "failed", "dropped")

REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
STEP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)
RATIO_BUCKETS = (0.25, 0.5, 0.67, 0.8, 0.87, 0.95, 1.05, 1.15, 1.25, 1.5, 2, 4)
JOB_BUCKETS = (0.1, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 90, 120, 180, 300, 600, 900, 1200, 1800, 2700, 3600)


class ServerState:
    """State of a server that metrics read on request, from any thread. After a StoreError its series are missing."""

    def __init__(self, videos: Videos) -> None:
        self._videos = videos

    def queue_length(self) -> int:
        """Number of jobs that wait for a turn."""
        return len(self._videos.engine.queue)

    def num_paused(self) -> int:
        """Number of jobs that are paused for others."""
        return self._videos.engine.num_paused

    def pauses(self) -> Pauses:
        """Pauses of all jobs."""
        return self._videos.engine.pauses

    def count_by_status(self) -> Mapping[str, int]:
        """Number of jobs in the store by status. Raises StoreError."""
        return {str(status): count for status, count in self._videos.store.count_by_status().items()}

    def store_bytes(self) -> int:
        """Bytes of all videos. Raises StoreError."""
        return self._videos.store.total_output_bytes()

    def uploads(self) -> UploadTally | None:
        """Tally of uploads to the object store; None if there is none."""
        uploads = self._videos.uploads
        return None if uploads is None else uploads.tally

    def replicas(self) -> Sequence[ReplicaState]:
        """The replicas as they are."""
        return self._videos.engine.replicas

    def num_wanted(self) -> int:
        """Number of replicas that the engine aims for."""
        return self._videos.engine.num_wanted


class Metrics:
    """Metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "ringlight_requests", "HTTP requests answered.", ["method", "route", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "ringlight_request_seconds",
            "Time from the head of a request to the end of its answer.",
            ["method", "route"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self._rejected = Counter("ringlight_rejected", "Requests answered with an error.", ["code"], registry=registry)
        self._jobs_finished = Counter(
            "ringlight_jobs_finished", "Jobs that ended.", ["status", "code"], registry=registry
        )
        self._job_seconds = Histogram(
            "ringlight_job_seconds",
            "Time from the start of a job to its end.",
            ["status", "layout"],
            buckets=JOB_BUCKETS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "ringlight_stage_seconds",
            "Time of a stage of a completed job, on rank 0.",
            ["stage"],
            buckets=JOB_BUCKETS,
            registry=registry,
        )
        self._step_seconds = Histogram(
            "ringlight_step_seconds",
            "Time of a denoising step of a completed job.",
            buckets=STEP_BUCKETS,
            registry=registry,
        )
        self._link_wait_seconds = Counter(
            "ringlight_link_wait_seconds", "Time that ranks waited for data, all ranks.", ["kind"], registry=registry
        )
        self._link_sent_bytes = Counter(
            "ringlight_link_sent_bytes", "Bytes that ranks sent, all ranks.", ["kind"], registry=registry
        )
        self._memory_peak_bytes = Gauge(
            "ringlight_memory_peak_bytes",
            "Peak of memory in the last completed job.",
            ["replica", "rank"],
            registry=registry,
        )
        self._predicted_ratio = Histogram(
            "ringlight_predicted_over_measured_ratio",
            "Predicted over measured time of a completed job's stages, and Total, where the machine is known.",
            ["stage"],
            buckets=RATIO_BUCKETS,
            registry=registry,
        )
        self._webhooks = Counter(
            "ringlight_webhooks", "Webhooks, by what became of them.", ["outcome"], registry=registry
        )

        self._begin_series()

    def _begin_series(self) -> None:
        """Make the series of failures at the start, so that the first failure is seen as an increase."""
        for code, kind in CODES.items():
            if kind.ends_jobs:
                self._jobs_finished.labels("failed", code)
        for outcome in WEBHOOK_OUTCOMES:
            self._webhooks.labels(outcome)

    def watch(self, state: ServerState, model: str, layout: str) -> None:
        """Read `state` too whenever metrics are requested. `layout` is a name such as u1r2."""
        self.registry.register(_Reading(state, model, layout))

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request. `route` is a template, `other` for paths that are none."""
        method = method if method in METHODS else OTHER
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def observe_rejected(self, code: str) -> None:
        """Count a request that was answered with an error of this code."""
        self._rejected.labels(code).inc()

    def observe_job(self, outcome: RunReport | str, seconds: float, layout: str, replica: str = "") -> None:
        """Count an ended job, with its report or error code. `seconds` are from its start, 0 if it never began."""
        status, code = ("completed", "") if isinstance(outcome, RunReport) else ("failed", outcome)
        self._jobs_finished.labels(status, code).inc()
        if seconds > 0:
            self._job_seconds.labels(status, layout).observe(seconds)
        if isinstance(outcome, RunReport):
            self._observe_report(outcome, replica)

    def observe_webhook(self, outcome: str) -> None:
        """Count a webhook that was delivered, failed or dropped."""
        self._webhooks.labels(outcome).inc()

    def text(self) -> tuple[bytes, str]:
        """Text of all metrics as Prometheus reads them, and the Content-Type. Reads the store: call it in a thread."""
        return generate_latest(_WithoutCreated(self.registry)), CONTENT_TYPE_PLAIN_0_0_4

    def _observe_report(self, report: RunReport, replica: str) -> None:
        for stage in report.stages:
            self._stage_seconds.labels(stage.name).observe(stage.seconds)
        for name, ratio in report.predicted_over_measured.items():
            self._predicted_ratio.labels(name).observe(ratio)
        for seconds in report.step_seconds:
            self._step_seconds.observe(seconds)
        for rank in report.ranks:
            self._memory_peak_bytes.labels(replica, str(rank.rank)).set(rank.memory.peak_bytes)
            for kind, link in rank.link.items():
                self._link_wait_seconds.labels(kind).inc(link.wait_seconds)
                self._link_sent_bytes.labels(kind).inc(link.sent_bytes)


class _WithoutCreated(Collector):
    """Registry without the series `..._created`, which would be half of all."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if sample.name != f"{metric.name}_created"]
            yield metric


class _Reading(Collector):
    """Collector that reads a server when metrics are requested."""

    def __init__(self, state: ServerState, model: str, layout: str) -> None:
        self._state = state
        self._about = {"version": ringlight.__version__, "model": model, "layout": layout}

    def collect(self) -> Iterator[Metric]:
        waiting = self._state.queue_length()
        yield GaugeMetricFamily(
            "ringlight_queue_length", "Jobs that wait for a turn, also for their next one.", value=waiting
        )
        yield from self._read_pauses()
        yield from self._read_store()
        yield from self._read_uploads()
        yield from self._read_replicas()

    def _read_pauses(self) -> Iterator[Metric]:
        pauses = self._state.pauses()
        yield GaugeMetricFamily(
            "ringlight_jobs_paused",
            "Jobs that wait for their next turn, as they made way.",
            value=self._state.num_paused(),
        )
        yield CounterMetricFamily("ringlight_pauses", "How often a job made way for another.", value=pauses.pauses)
        yield CounterMetricFamily(
            "ringlight_paused_seconds",
            "Time for which jobs that had made way waited for their next turns.",
            value=pauses.paused_seconds,
        )

    def _read_store(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("ringlight_jobs", "Jobs in the store.", labels=["status"])
        try:
            for status, count in self._state.count_by_status().items():
                jobs.add_metric([status], count)
            size_bytes = self._state.store_bytes()
        except StoreError:  # the other metrics are wanted all the more
            yield GaugeMetricFamily("ringlight_store_up", "Whether the store answers.", value=0)
            return
        yield GaugeMetricFamily("ringlight_store_up", "Whether the store answers.", value=1)
        yield jobs
        yield GaugeMetricFamily("ringlight_store_bytes", "Bytes of all videos that are kept.", value=size_bytes)

    def _read_uploads(self) -> Iterator[Metric]:
        if (tally := self._state.uploads()) is None:
            return
        yield GaugeMetricFamily(
            "ringlight_media_up", "Whether the object store answered last time.", value=not tally.problem
        )
        yield GaugeMetricFamily(
            "ringlight_uploads_waiting", "Videos that are made and not in the object store yet.", value=tally.waiting
        )
        yield CounterMetricFamily("ringlight_uploads", "Videos brought to the object store.", value=tally.uploads)
        yield CounterMetricFamily(
            "ringlight_upload_failures", "Tries to store or to remove a video that failed.", value=tally.failures
        )
        yield CounterMetricFamily("ringlight_upload_seconds", "Time that uploads took.", value=tally.seconds)
        yield CounterMetricFamily("ringlight_upload_bytes", "Bytes that were uploaded.", value=tally.size_bytes)

    def _read_replicas(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("ringlight_worker_up", "Whether the ranks of a replica are ready.", labels=["replica"])
        restarts = CounterMetricFamily(
            "ringlight_worker_restarts", "Starts of a replica's ranks after the first.", labels=["replica"]
        )
        device = ""
        replicas = self._state.replicas()
        for replica in replicas:
            up.add_metric([replica.name], replica.status in SERVING)
            restarts.add_metric([replica.name], replica.restarts)
            device = device or str(replica.environment.get("device", ""))
        yield up
        yield restarts
        states = GaugeMetricFamily("ringlight_replicas", "Replicas that are there, by their states.", labels=["state"])
        for state in STATES:
            states.add_metric([state], sum(replica.status == state for replica in replicas))
        yield states
        yield GaugeMetricFamily(
            "ringlight_replicas_wanted", "Replicas that the queue asks for.", value=self._state.num_wanted()
        )
        pending = sum(replica.status not in SERVING for replica in replicas)
        yield GaugeMetricFamily(
            "ringlight_replicas_pending", "Replicas that are there, or on their way, and not ready.", value=pending
        )
        about = self._about | {"device": device}
        yield InfoMetricFamily("ringlight_build", "What runs here; the device once a replica is ready.", value=about)
