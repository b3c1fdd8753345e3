"""Routes of the server itself: what it serves, how it is, and what it has counted."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

import ringlight
from ringlight.core.lora import Lora
from ringlight.core.named_samplers import SAMPLERS
from ringlight.core.request import RequestDefaults, RequestLimits, bounds, grid, is_taken
from ringlight.core.video_fields import VIDEO_FIELDS, VideoField
from ringlight.families.lora_library import LoraLibrary
from ringlight.families.model import ModelSpec
from ringlight.server.api.openapi import answers
from ringlight.server.api.parts import Owner, Parts, Served
from ringlight.server.api.schemas import Alive, Health, MediaHealth, Ready, ReplicaHealth, Version, as_model
from ringlight.server.api.standing import standing_of
from ringlight.server.collection.uploads import UploadTally
from ringlight.server.http.http_error import HttpError
from ringlight.wire.model import FieldCard, FieldChoice, FieldType, ModelCard, ModelList, OfferedLora

TYPES: dict[Any, FieldType] = {
    int: "integer",
    float: "number",
    str: "string",
    tuple[float, ...]: "numbers",
    tuple[Lora, ...]: "loras",
}

router = APIRouter(tags=["Server"])


@router.get("/v1/models", response_model=as_model(ModelList), responses=answers())
def list_models(parts: Served, owner: Owner) -> ModelList:
    """List the models that are served: one, under each of its names."""
    return ModelList(data=[_card(name, parts) for name in parts.videos.model_names])


@router.get("/v1/models/{model:path}", response_model=as_model(ModelCard), responses=answers(404))
def retrieve_model(model: str, parts: Served, owner: Owner) -> ModelCard:
    """Retrieve a model, with what a request may leave out and what bounds it."""
    if model not in parts.videos.model_names:
        raise HttpError(404, "model_not_found", f"there is no model {model[:80]!r} here", param="model")
    return _card(model, parts)


@router.get("/livez")
async def live() -> Alive:
    """Whether the process answers. Touches nothing else."""
    return Alive()


@router.get("/readyz", response_model=Ready, responses=answers(503))
async def ready(parts: Served) -> Response:
    """Whether videos are being made: a replica is ready, or will be for whoever asks, and the server is not stopping.

    Where --num-replicas begins with 0 none need be there: that is said, and the first video waits until one is.
    """
    standing = standing_of(parts)
    if standing.status not in ("ready", "asleep", "waking"):
        return HttpError(503, "unavailable", standing.message).response()  # not raised: no failure to be logged
    return JSONResponse({"status": standing.status, "message": standing.message or None})


@router.get("/health")
async def health(parts: Served) -> Health:
    """Report the state of the server and its replicas. Always 200; /readyz says by its status."""
    standing, engine = standing_of(parts), parts.videos.engine
    replicas = [
        ReplicaHealth(name=each.name, status=each.status, restarts=each.restarts, reason=reason)
        for each, reason in zip(standing.replicas, standing.reasons, strict=True)
    ]
    return Health(
        status=standing.status,
        replicas=replicas,
        replicas_wanted=engine.num_wanted,
        replicas_ready=standing.num_ready,
        replicas_pending=len(replicas) - standing.num_ready,
        queue_length=len(engine.queue),
        media=None if parts.videos.uploads is None else _media(parts.videos.uploads.tally),
    )


@router.get("/version")
async def version(parts: Served) -> Version:
    """Report the versions of what runs here."""
    videos = parts.videos
    device = next((device for each in videos.engine.replicas if (device := each.environment.get("device"))), None)
    return Version(
        version=ringlight.__version__,
        model=videos.model_names[0],
        layout=videos.engine.choice.layout.name,
        layout_reason=videos.engine.choice.reason,
        device=None if device is None else str(device),
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses={**answers(), 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(parts: Served, owner: Owner) -> Response:
    """Export metrics for Prometheus. Needs a key where others do: it tells of all owners' videos."""
    text, content_type = parts.metrics.text()
    return Response(text, headers={"content-type": content_type})


def _card(name: str, parts: Parts) -> ModelCard:
    videos = parts.videos
    height_multiple, width_multiple = videos.spec.size_multiple
    return ModelCard(
        id=name,
        created=int(parts.started_at),
        fields=field_cards(videos.defaults, videos.spec, videos.limits),
        defaults=msgspec.to_builtins(videos.defaults.settled(videos.spec)),
        examples=list(videos.examples),
        limits=msgspec.to_builtins(videos.limits),
        loras=offered_loras(videos.engine.door.loras),
        width_multiple=width_multiple,
        height_multiple=height_multiple,
        frame_multiple=videos.spec.frame_multiple,
        takes_picture=videos.spec.takes_picture,
        needs_picture=videos.spec.needs_picture,
        takes_last_picture=videos.spec.takes_last_picture,
        needs_last_picture=videos.spec.needs_last_picture,
        has_experts=videos.spec.has_experts,
    )


def offered_loras(library: LoraLibrary) -> list[OfferedLora]:
    """LoRAs that every video has, and those that requests may name, as they lie there now."""
    always = [
        OfferedLora(name=lora.name, strength=lora.strength, target=lora.target or "both", is_always_on=True)
        for lora in library.always
    ]
    return always + [
        OfferedLora(name=lora.name, target=lora.target or "both", problem=problem)
        for lora, _, problem in library.offered()
    ]


def field_cards(defaults: RequestDefaults, spec: ModelSpec, limits: RequestLimits) -> list[FieldCard]:
    """Fields that a request to this model may leave out, with the bounds that hold here."""
    cards = []
    for field in (field for field in VIDEO_FIELDS if is_taken(field, spec)):
        least, most = bounds(field, limits)
        least, step = grid(spec).get(field.name, (least, None))
        cards.append(
            FieldCard(
                name=field.name,
                type=TYPES[field.type],
                title=field.rules.label,
                help=field.help,
                group=field.group,
                minimum=least,
                maximum=most,
                step=step,
                default=msgspec.to_builtins(getattr(defaults, field.name)),
                default_rule=field.rules.default_rule,
                choices=[_choice(field, value) for value in field.rules.choices],
            )
        )
    return cards


def _choice(field: VideoField, value: str) -> FieldChoice:
    """Describe a value of a field; those that are samplers bring others."""
    if field.name != "sampler":
        return FieldChoice(value=value)
    return FieldChoice(value=value, help=SAMPLERS[value].about, brings=SAMPLERS[value].brings)


def _media(tally: UploadTally) -> MediaHealth:
    return MediaHealth(
        status="away" if tally.problem else "ready", problem=tally.problem or None, uploads_waiting=tally.waiting
    )
