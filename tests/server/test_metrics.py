"""Metrics: what is counted, what is read when asked, how few series there are, and that the dashboard's exist."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
import yaml
from fastapi import APIRouter, FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

import ringlight
from ringlight.core.errors import NotFound, QueueFull, StoreError
from ringlight.core.plan import PredictedReport
from ringlight.core.report import LinkReport, MemoryReport, RankReport, RunReport, StageReport
from ringlight.engine.job_state import Pauses
from ringlight.engine.runner import ReplicaState
from ringlight.server.collection.uploads import UploadTally
from ringlight.server.http import http_error
from ringlight.server.observability.meter import RequestMeter
from ringlight.server.observability.metrics import Metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD, ALERTS = DEPLOY / "grafana" / "ringlight.json", DEPLOY / "prometheus-alerts.yml"
LEFT_OUT: frozenset[str] = frozenset()  # series that the dashboard does without, on purpose


class Lab:
    """A service with two replicas, of which one is lost, whose store can be made to fail."""

    store_answers = True

    def queue_length(self) -> int:
        return 4

    def num_paused(self) -> int:
        return 2

    def pauses(self) -> Pauses:
        return Pauses(pauses=3, paused_seconds=4.5)

    def count_by_status(self) -> Mapping[str, int]:
        self._ask_store()
        return {"queued": 4, "in_progress": 1, "completed": 7, "failed": 0}

    def store_bytes(self) -> int:
        self._ask_store()
        return 123_456_789

    def uploads(self) -> UploadTally | None:
        return UploadTally(uploads=9, failures=2, seconds=7.5, size_bytes=1234, waiting=3, problem="away")

    def replicas(self) -> Sequence[ReplicaState]:
        one = ReplicaState(
            name="replica-0", status="busy", restarts=0, job_id="video_1", environment={"device": "a GPU"}, problem=""
        )
        return [one, msgspec.structs.replace(one, name="replica-1", status="lost", restarts=3, environment={})]

    def num_wanted(self) -> int:
        return 3

    def _ask_store(self) -> None:
        if not self.store_answers:
            raise StoreError("the database is locked")


def rank(number: int) -> RankReport:
    return RankReport(
        rank=number,
        stages=[],
        memory=MemoryReport(rank=number, device="cuda:0", peak_reserved_bytes=(number + 1) * 2**30),
        link={"ring": LinkReport(sent_bytes=1000, wait_seconds=0.5 + number)},
    )


def report() -> RunReport:
    return RunReport(
        workload={"num_frames": 121},
        workload_hash="0" * 64,
        layout="u1r2",
        environment={},
        stages=[StageReport(name=name, seconds=seconds, peak_bytes=1) for name, seconds in (("Denoising", 40.0),)],
        other_seconds=0.5,
        total_seconds=40.5,
        step_seconds=[3.0, 1.0, 1.0],
        ranks=[rank(0), rank(1)],
        num_tokens=100,
        outputs=["video.mp4"],
        predicted=PredictedReport(basis="H100", stages={"Denoising": 30.0}, total_seconds=81.0, peak_bytes=2**30),
    )


def scrape(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample, as Prometheus' own parser reads it."""
    text, content_type = metrics.text()
    assert content_type.startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(text.decode()))
    assert all(family.documentation for family in families)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return scrape(metrics).get((name, frozenset(labels.items())))


@pytest.fixture
def metrics() -> Metrics:
    """Everything has happened once."""
    metrics = Metrics()
    metrics.watch(Lab(), model="wan", layout="u1r2")
    metrics.observe_request("POST", "/v1/videos", 200, 0.02)
    metrics.observe_request("POST", "/v1/videos", 429, 0.001)
    metrics.observe_rejected("queue_full")
    metrics.observe_job(report(), 41.0, "u1r2", "replica-0")
    metrics.observe_job("out_of_memory", 5.0, "u1r2")
    metrics.observe_job("cancelled", 0.0, "u1r2")
    metrics.observe_webhook("delivered")
    return metrics


def test_requests_are_counted_by_route_and_status(metrics: Metrics) -> None:
    of = {"method": "POST", "route": "/v1/videos"}
    assert value(metrics, "ringlight_requests_total", status="429", **of) == 1
    assert value(metrics, "ringlight_request_seconds_count", **of) == 2
    assert value(metrics, "ringlight_request_seconds_sum", **of) == pytest.approx(0.021)
    assert value(metrics, "ringlight_rejected_total", code="queue_full") == 1


def test_methods_that_nobody_has_heard_of_are_one(metrics: Metrics) -> None:
    for method in ("BREW", "X" * 1000):
        metrics.observe_request(method, "other", 405, 0.1)
    assert value(metrics, "ringlight_requests_total", method="other", route="other", status="405") == 2


def test_a_completed_job_tells_stages_steps_links_and_memory(metrics: Metrics) -> None:
    assert value(metrics, "ringlight_jobs_finished_total", status="completed", code="") == 1
    assert value(metrics, "ringlight_job_seconds_sum", status="completed", layout="u1r2") == 41.0
    assert value(metrics, "ringlight_stage_seconds_sum", stage="Denoising") == 40.0
    assert value(metrics, "ringlight_step_seconds_count") == 3
    assert value(metrics, "ringlight_step_seconds_sum") == 5.0
    assert value(metrics, "ringlight_link_wait_seconds_total", kind="ring") == 2.0
    assert value(metrics, "ringlight_link_sent_bytes_total", kind="ring") == 2000
    assert value(metrics, "ringlight_memory_peak_bytes", replica="replica-0", rank="1") == 2 * 2**30


def test_predictions_are_held_against_what_was_measured(metrics: Metrics) -> None:
    of = "ringlight_predicted_over_measured_ratio"
    assert value(metrics, f"{of}_sum", stage="Denoising") == 0.75
    assert value(metrics, f"{of}_sum", stage="Total") == 2.0
    assert value(metrics, f"{of}_count", stage="Total") == 1
    resumed = msgspec.structs.replace(report(), resumed_from_step=2)  # whose measured part is not the whole
    metrics.observe_job(resumed, 41.0, "u1r2", "replica-0")
    assert value(metrics, f"{of}_count", stage="Total") == 1


def test_failed_jobs_are_counted_by_code_and_timed_if_they_began(metrics: Metrics) -> None:
    assert value(metrics, "ringlight_jobs_finished_total", status="failed", code="out_of_memory") == 1
    assert value(metrics, "ringlight_jobs_finished_total", status="failed", code="cancelled") == 1
    assert value(metrics, "ringlight_jobs_finished_total", status="failed", code="worker_error") == 0
    assert value(metrics, "ringlight_job_seconds_count", status="failed", layout="u1r2") == 1


def test_what_the_service_knows_is_read_when_asked(metrics: Metrics) -> None:
    assert value(metrics, "ringlight_queue_length") == 4
    assert value(metrics, "ringlight_jobs_paused") == 2
    assert value(metrics, "ringlight_pauses_total") == 3
    assert value(metrics, "ringlight_paused_seconds_total") == 4.5
    assert value(metrics, "ringlight_jobs", status="completed") == 7
    assert value(metrics, "ringlight_store_bytes") == 123_456_789
    assert value(metrics, "ringlight_media_up") == 0
    assert value(metrics, "ringlight_uploads_waiting") == 3
    assert value(metrics, "ringlight_uploads_total") == 9
    assert value(metrics, "ringlight_upload_failures_total") == 2
    assert value(metrics, "ringlight_upload_seconds_total") == 7.5
    assert value(metrics, "ringlight_upload_bytes_total") == 1234
    assert value(metrics, "ringlight_worker_up", replica="replica-0") == 1
    assert value(metrics, "ringlight_worker_up", replica="replica-1") == 0
    assert value(metrics, "ringlight_worker_restarts_total", replica="replica-1") == 3
    by_state = [value(metrics, "ringlight_replicas", state=state) for state in ("starting", "ready", "busy", "lost")]
    assert by_state == [0, 0, 1, 1]
    assert value(metrics, "ringlight_replicas_wanted") == 3
    assert value(metrics, "ringlight_replicas_pending") == 1
    about = {"version": ringlight.__version__, "model": "wan", "device": "a GPU", "layout": "u1r2"}
    assert value(metrics, "ringlight_build_info", **about) == 1


def test_a_store_that_fails_takes_only_its_own_series_with_it() -> None:
    metrics, lab = Metrics(), Lab()
    metrics.watch(lab, model="wan", layout="u1r2")
    assert value(metrics, "ringlight_store_up") == 1
    lab.store_answers = False
    names = {name for name, _ in scrape(metrics)}
    assert value(metrics, "ringlight_store_up") == 0
    assert not names & {"ringlight_jobs", "ringlight_store_bytes"}
    assert names >= {"ringlight_queue_length", "ringlight_worker_up"}


def test_buckets_reach_an_hour_and_names_have_base_units(metrics: Metrics) -> None:
    samples = scrape(metrics)
    for name in ("ringlight_job_seconds_bucket", "ringlight_stage_seconds_bucket"):
        bounds = {float(dict(labels)["le"]) for found, labels in samples if found == name}
        assert max(bounds - {float("inf")}) == 3600
    assert all(name.startswith("ringlight_") for name, _ in samples)
    assert not [name for name, _ in samples if re.search(r"_created|_ms|_milliseconds|_mib|_gib|_percent", name)]


def test_servers_do_not_share_what_they_count(metrics: Metrics) -> None:
    assert value(Metrics(), "ringlight_step_seconds_count") == 0
    assert value(metrics, "ringlight_step_seconds_count") == 3


# Requests


def application() -> FastAPI:
    router, app = APIRouter(prefix="/v1"), FastAPI()

    @router.get("/videos/{video_id}")
    def video(video_id: str) -> JSONResponse:
        if video_id == "gone":
            raise NotFound("it is gone")
        if video_id == "full":
            raise QueueFull("come back later")
        return JSONResponse({"id": video_id})

    @router.get("/plain")
    def plain() -> PlainTextResponse:
        return PlainTextResponse('{"error": {"code": "made up"}}', 418)

    @router.get("/stream")
    def stream() -> StreamingResponse:
        return StreamingResponse(iter([b"one", b"two"]))

    @app.get("/livez")
    def livez() -> PlainTextResponse:
        return PlainTextResponse("ok")

    @app.get("/defect")
    def defect() -> None:
        raise RuntimeError("a defect")

    app.include_router(router)
    http_error.install(app)
    return app


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Metrics]]:
    metrics = Metrics()
    config = uvicorn.Config(RequestMeter(application(), metrics), port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", metrics
    server.should_exit = True
    thread.join()


@pytest.fixture
def access(caplog: pytest.LogCaptureFixture) -> Iterator[list[dict[str, Any]]]:
    """The lines of the access log, as they come."""
    lines: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(vars(record))

    logger, keep = logging.getLogger("ringlight.access"), Keep()
    logger.addHandler(keep)
    with caplog.at_level(logging.DEBUG, "ringlight.access"):
        yield lines
    logger.removeHandler(keep)


def wait_for(lines: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """The answer can reach a client before its line is written."""
    until = time.monotonic() + 10
    while len(lines) < number and time.monotonic() < until:
        time.sleep(0.005)
    assert len(lines) == number
    return lines


def test_requests_are_measured_by_template(server: tuple[str, Metrics], access: list[dict[str, Any]]) -> None:
    url, metrics = server
    with httpx.Client(base_url=url, trust_env=False) as client:
        videos = ["/v1/videos/a", "/v1/videos/b", "/v1/videos/gone", "/v1/videos/full"]
        paths = [*videos, "/v1/stream", "/v1/plain", "/nowhere", "/no/where", "/defect"]
        statuses = [client.get(path).status_code for path in paths]
        statuses += [client.delete("/v1/videos/a").status_code, client.head("/nowhere").status_code]
    assert statuses == [200, 200, 404, 429, 200, 418, 404, 404, 500, 405, 404]
    wait_for(access, len(statuses))
    routes = {
        (dict(labels)["method"], dict(labels)["route"], dict(labels)["status"]): found
        for (name, labels), found in scrape(metrics).items()
        if name == "ringlight_requests_total"
    }
    template = "/v1/videos/{video_id}"
    assert routes == {
        ("GET", template, "200"): 2,
        ("GET", template, "404"): 1,
        ("GET", template, "429"): 1,
        ("GET", "/v1/stream", "200"): 1,
        ("GET", "/v1/plain", "418"): 1,
        ("GET", "other", "404"): 2,
        ("GET", "/defect", "500"): 1,
        ("DELETE", template, "405"): 1,
        ("HEAD", "other", "404"): 1,
    }
    rejected = {
        dict(labels)["code"]: found
        for (name, labels), found in scrape(metrics).items()
        if name == "ringlight_rejected_total"
    }
    assert rejected == {
        "not_found": 3 + 1,  # HEAD's too, whose body the server throws away after us
        "queue_full": 1,
        "internal_error": 1,
        "method_not_allowed": 1,
        "http_418": 1,
    }


def test_one_line_is_written_for_a_request(server: tuple[str, Metrics], access: list[dict[str, Any]]) -> None:
    url, _ = server
    with httpx.Client(base_url=url, trust_env=False) as client:
        client.get("/v1/stream?key=secret")
        client.get("/v1/videos/%0aforged%1b[2J")
        client.get("/livez")
    stream, forged, livez = wait_for(access, 3)
    assert (stream["method"], stream["path"], stream["status"], stream["sent_bytes"]) == ("GET", "/v1/stream", 200, 6)
    assert stream["client"] == "127.0.0.1"
    assert forged["path"].isprintable() and "%0a" in forged["path"].lower()
    assert [line["levelname"] for line in (stream, forged, livez)] == ["INFO", "INFO", "DEBUG"]


# The dashboard and the alerts

SUFFIXES = re.compile(r"_(bucket|sum|count)$")


def names_in(expression: str) -> set[str]:
    """The names of all series in a PromQL expression."""
    bare = re.sub(r'"[^"]*"|\[[^]]*\]', "", expression)
    return set(re.findall(r"\b[a-z]+_[a-z_]+\b(?!\s*\()", re.sub(r"\{[^}]*\}", "", bare)))


def labels_in(expression: str) -> set[str]:
    """The labels that a PromQL expression groups and selects by."""
    grouped = [name.strip() for part in re.findall(r"by \(([^)]*)\)", expression) for name in part.split(",")]
    return {*grouped, *re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", "".join(re.findall(r"\{[^}]*\}", expression)))}


def panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text())["panels"])


def dashboard_expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", [])]


def alert_rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def exported(metrics: Metrics) -> dict[str, set[str]]:
    """The labels of every series."""
    found: dict[str, set[str]] = {}
    for name, labels in scrape(metrics):
        found.setdefault(name, set()).update(key for key, _ in labels)
    return found


def test_expressions_are_taken_apart() -> None:
    expression = (
        'sum by (le, route) (rate(ringlight_a_bucket{route!~"/x_y|z_w", code="q_r"}[$__rate_interval])) / b_total'
    )
    assert names_in(expression) == {"ringlight_a_bucket", "b_total"}
    assert labels_in(expression) == {"le", "route", "code"}
    assert names_in("max by (instance) (c_up) == 0 and on (instance) sum(d_e{f='g_h'}) > 0") == {"c_up", "d_e"}


def test_every_series_of_dashboard_and_alerts_exists(metrics: Metrics) -> None:
    known = exported(metrics)
    expressions = [*dashboard_expressions(), *(rule["expr"] for rule in alert_rules())]
    assert len(expressions) > 20
    for expression in expressions:
        if expression.startswith("up{"):  # Prometheus' own
            continue
        names = names_in(expression)
        assert names and names <= known.keys(), expression
        assert labels_in(expression) <= set().union(*(known[name] for name in names)) | {"job", "instance"}, expression


def test_every_series_stands_in_the_dashboard(metrics: Metrics) -> None:
    shown = {SUFFIXES.sub("", name) for expression in dashboard_expressions() for name in names_in(expression)}
    assert {SUFFIXES.sub("", name) for name in exported(metrics)} - LEFT_OUT == shown


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert [panel["title"] for panel in panels() if panel["type"] == "row"] == [
        "Service",
        "Queue",
        "Stages",
        "Memory",
        "Link",
        "Workers",
        "Object store",
    ]
    assert len({panel["id"] for panel in panels()}) == len(panels())
    assert [variable["type"] for variable in dashboard["templating"]["list"]] == ["datasource", "query"]
    for panel in panels():
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}" and panel["description"]
            assert all('instance=~"$instance"' in target["expr"] for target in panel["targets"])


def test_panels_do_not_lie_over_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def test_every_alert_says_what_to_do() -> None:
    for rule in alert_rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert "for" in rule
