"""The application: all parts of a server put together, in the order in which they are opened and closed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from anyio import to_thread
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from ringlight.core.config import EngineConfig
from ringlight.core.errors import NotFound, Occupied
from ringlight.core.settings import ServeSettings
from ringlight.engine.engine import Engine
from ringlight.server.api.openapi import describe
from ringlight.server.api.parts import NO_BATCH_IDS, NO_IDS, Parts
from ringlight.server.api.routes import batches, content, pages, system, videos
from ringlight.server.api.schemas import to_video
from ringlight.server.api.watchers import Watchers
from ringlight.server.collection.batches import Batches
from ringlight.server.collection.database import check_url
from ringlight.server.collection.folder import check_data_folder
from ringlight.server.collection.media import check_media
from ringlight.server.collection.store import StoredDelivery
from ringlight.server.collection.videos import Videos, engine_of
from ringlight.server.collection.view import View
from ringlight.server.http import http_error, middleware
from ringlight.server.http.http_error import HttpError
from ringlight.server.observability.logs import configure_logs
from ringlight.server.observability.meter import RequestMeter
from ringlight.server.observability.metrics import Metrics, ServerState
from ringlight.server.observability.tracing import Tracing, check_endpoint, configure_tracing
from ringlight.server.safety.keys import ApiKeys, check_exposure
from ringlight.server.safety.links import ContentLinks
from ringlight.server.safety.outbound import Outbound
from ringlight.server.safety.webhooks import WebhookDelivery, Webhooks
from ringlight.server.serving import bind, run

__all__ = ["check", "create_app", "engine_of", "run"]

ROUTERS = (videos.router, content.router, batches.router, system.router, pages.router)
FETCH_SECONDS = 30.0  # for a picture by URL, or the address of a webhook


CHECKS: tuple[Callable[[ServeSettings], object], ...] = (
    check_exposure,
    ApiKeys.from_settings,
    Webhooks.from_settings,
    lambda settings: image_hosts_of(settings),
    lambda settings: webhook_hosts_of(settings),
    lambda settings: check_endpoint(settings.otlp_endpoint),
    lambda settings: check_data_folder(Path(settings.data_dir)),
    lambda settings: check_url(settings.store_url) if settings.store_url else None,
    lambda settings: check_media(settings.media_url) if settings.media_url else None,
    lambda settings: bind(settings.address, settings.port).close(),
)
"""What a start does with each setting, as far as it can be done without a trace. Raise InvalidSetting."""


class Checked(NamedTuple):
    """Engine of a server that is only checked, and what keeps it from being started only at this moment."""

    engine: Engine
    occupied: Sequence[str]


def check(settings: ServeSettings, config: EngineConfig) -> Checked:
    """Check all that a start refuses before its workers load, by the code of the start itself. Leaves no trace.

    A node above 0 has only ranks. Raises InvalidSetting, InvalidCheckpoint, InvalidLayout.
    """
    engine, occupied = engine_of(settings, config), []
    for each in CHECKS if config.nodes.node_rank == 0 else ():
        try:
            each(settings)
        except Occupied as error:
            occupied.append(str(error))
    return Checked(engine, occupied)


def create_app(settings: ServeSettings, config: EngineConfig) -> FastAPI:
    """Create a server's application. It holds the data folder from now on; workers start with its lifespan.

    Raises InvalidSetting, InvalidCheckpoint, InvalidLayout, StoreError.
    """
    configure_logs(settings.log_format, settings.log_level)
    check_exposure(settings)
    keys, metrics = ApiKeys.from_settings(settings), Metrics()
    image_hosts, webhook_hosts = image_hosts_of(settings), webhook_hosts_of(settings)
    webhooks = Webhooks.from_settings(settings, metrics.observe_webhook)
    tracing = configure_tracing(settings.otlp_endpoint)
    collection = Videos(settings, config, Announcer(metrics, webhooks, tracing))
    taken = Batches(collection)
    metrics.watch(ServerState(collection), collection.model_names[0], collection.engine.choice.layout.name)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await to_thread.run_sync(collection.start)
        taken.start()
        webhooks.start(VideoEvents(collection))
        yield
        await to_thread.run_sync(webhooks.close)  # which needs the store
        await to_thread.run_sync(taken.close)
        await to_thread.run_sync(collection.close)
        if tracing is not None:
            await to_thread.run_sync(tracing.close)

    app = FastAPI(title="Ringlight", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.parts = Parts(
        settings=settings,
        videos=collection,
        batches=taken,
        keys=keys,
        links=ContentLinks(settings.media_link_seconds, collection.clock),
        image_hosts=image_hosts,
        webhook_hosts=webhook_hosts,
        tracing=tracing,
        metrics=metrics,
        watchers=Watchers(collection),
        started_at=collection.clock.wall(),
    )
    for router in ROUTERS:
        app.include_router(router)
    app.openapi = lambda: describe(app, needs_key=bool(len(keys)))  # type: ignore[method-assign]
    http_error.install(app, collection.tell)
    app.add_exception_handler(405, method_not_allowed)
    middleware.install(app, settings)
    app.user_middleware.insert(1, Middleware(RequestMeter, metrics=metrics))  # in request ids, around all else
    return app


def image_hosts_of(settings: ServeSettings) -> Outbound:
    """Outbound calls to hosts that first frames may be fetched from. Raises InvalidSetting."""
    return Outbound(settings.image_host, FETCH_SECONDS, settings.limits.max_image_bytes)


def webhook_hosts_of(settings: ServeSettings) -> Outbound:
    """Outbound calls to hosts that requests may name for webhooks. Raises InvalidSetting."""
    return Outbound(settings.webhook_host, FETCH_SECONDS, 0, purpose="webhook_url", param="webhook_url")


async def method_not_allowed(request: Request, error: Exception) -> Response:
    """Answer 405 with all methods of a path; the framework itself knows only those of the first route that has it.

    A path that is written out, such as /v1/videos/sync, has no methods from one with an id in that place.
    """
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, Route)]
    asked = {**request.scope, "path_params": {}}  # those that are there are of the route that was taken
    found = [(route, *route.matches(asked)) for route in routes]
    methods = {
        method
        for route, match, scope in found
        if match is not Match.NONE and not {*NO_IDS, *NO_BATCH_IDS}.intersection(scope["path_params"].values())
        for method in route.methods or ()
    }
    path, method = request.url.path, request.method
    allow = {"Allow": ", ".join(sorted(methods))}
    return HttpError(405, "method_not_allowed", f"{path} does not take {method}", headers=allow).response()


class Announcer:
    """Reporter of ended videos, to metrics, traces and webhooks."""

    def __init__(self, metrics: Metrics, webhooks: Webhooks, tracing: Tracing | None) -> None:
        self._metrics = metrics
        self._webhooks = webhooks
        self._tracing = tracing

    def __call__(self, view: View) -> None:
        """Report a video whose end is written down. Called from a thread."""
        stored = view.stored
        seconds = 0.0 if stored.started_at is None else view.run_seconds
        outcome = view.report if view.report is not None else ("" if stored.error is None else stored.error.code)
        replica = "" if view.state is None else view.state.replica
        self._metrics.observe_job(outcome, seconds, stored.layout, replica)
        if self._tracing is not None:
            self._tracing.record(stored, view.report)
        self._webhooks.wake()


class VideoEvents:
    """Ends of videos that webhooks have to report, as they are kept with the videos (webhooks.Outbox)."""

    def __init__(self, videos: Videos) -> None:
        self._videos = videos

    def settle(self, over: Collection[WebhookDelivery], limit: int) -> Sequence[WebhookDelivery]:
        """Forget deliveries that are over; return the oldest of the others. Raises StoreError."""
        kept = self._videos.store.settle([StoredDelivery(*msgspec.structs.astuple(each)) for each in over], limit)
        return [WebhookDelivery(*msgspec.structs.astuple(each)) for each in kept]

    def event(self, video_id: str) -> tuple[str, Mapping[str, Any]] | None:
        """Name of a video's event, and the video as the API shows it; None if it is deleted. Raises StoreError."""
        try:
            view = self._videos.get(video_id, None)
        except NotFound:
            return None
        return f"video.{view.status}", msgspec.to_builtins(to_video(view))
