"""The description of the API (OpenAPI 3.1): bodies in the forms that they may take, and every error in its envelope."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import ringlight
from ringlight.core.codes import CODES
from ringlight.server.api.asked_batch import CheckBatch, CreateBatch
from ringlight.server.api.calls import Call, CreateVideo, ExtendVideo, RemixVideo
from ringlight.server.api.schemas import as_model
from ringlight.wire.errors import ErrorEnvelope

CALLS: tuple[type[Call], ...] = (CreateVideo, ExtendVideo, RemixVideo)
REFERENCE = "#/components/schemas/{model}"
ALWAYS = (401, 500, 503)  # whatever is asked
EXAMPLES: dict[str, dict[str, Any]] = {
    "CreateBatch": {
        "name": "rain",
        "requests": [{"prompt": "A street in the rain", "seed": seed} for seed in (1, 2)],
    },
    "CheckBatch": {"name": "rain", "requests": [{"prompt": "A street in the rain", "size": "1000x704"}]},
    "CreateVideo": {"prompt": "A paper boat sails through a rainy street", "size": "1280x704", "seconds": "5"},
    "ExtendVideo": {
        "prompt": "The boat reaches the sea",
        "seconds": "5",
        "video": {"id": "video_0c6a1f8a5f3e4b0f9d6b2f1f6f0a7c3e"},
    },
    "RemixVideo": {"prompt": "A paper boat sails through a street full of snow"},
}
ABOUT = """\
OpenAI's Videos API, with more beside it. Every error is `{"error": {message, type, param, code}}`, and every answer
has an `x-request-id`. A key, where the server asks for one, goes into `Authorization: Bearer KEY`.
"""


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors that a route may answer."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*statuses, *ALWAYS}):
        codes = ", ".join(f"`{code}`" for code, known in CODES.items() if known.status == status)
        found[status] = {"model": as_model(ErrorEnvelope), "description": codes}
    return found


def takes(call: type[Call]) -> dict[str, Any]:
    """Describe the body of a route that reads it by itself: one call in three encodings."""
    name = call.__name__
    example = EXAMPLES[name]
    as_form = {field: value["id"] if isinstance(value, dict) else value for field, value in example.items()}
    content = {
        "application/json": {"schema": {"$ref": REFERENCE.format(model=name)}, "example": example},
        "multipart/form-data": {"schema": {"$ref": REFERENCE.format(model=f"{name}Parts")}, "example": as_form},
        "application/x-www-form-urlencoded": {
            "schema": {"$ref": REFERENCE.format(model=f"{name}Form")},
            "example": as_form,
        },
    }
    return {"requestBody": {"required": True, "content": content}}


def takes_json(call: type[BaseModel]) -> dict[str, Any]:
    """Describe the body of a call that comes in JSON alone, as `takes` does for others."""
    name = call.__name__
    content = {"schema": {"$ref": REFERENCE.format(model=name)}, "example": EXAMPLES[name]}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _as_form(schema: dict[str, Any], files: Collection[str] = ()) -> dict[str, Any]:
    """Schema of a call in a form: a field is left out and never null, an object is named by its text, or is a file."""
    properties = {}
    for name, field in schema["properties"].items():
        kinds = [kind for kind in field.get("anyOf", [field]) if "$ref" not in kind and kind.get("type") != "null"]
        about = {key: value for key, value in field.items() if key not in ("anyOf", "default", "examples")}
        if "enum" in about:
            about["enum"] = [value for value in about["enum"] if value is not None]
        if name in files:
            kinds = [{"type": "string", "format": "binary"}]
        properties[name] = about | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds})
    return schema | {"properties": properties}


def describe(app: FastAPI, needs_key: bool) -> dict[str, Any]:
    """Describe the whole API, once."""
    if app.openapi_schema is None:
        described = get_openapi(
            title="Ringlight",
            version=ringlight.__version__,
            description=ABOUT,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        calls: tuple[type[BaseModel], ...] = (*CALLS, CheckBatch, CreateBatch)
        _, definitions = models_json_schema([(call, "validation") for call in calls], ref_template=REFERENCE)
        schemas = described["components"]["schemas"]
        schemas |= definitions["$defs"]
        for call in CALLS:
            schema = schemas[call.__name__]
            schemas[f"{call.__name__}Form"] = _as_form(schema)
            schemas[f"{call.__name__}Parts"] = _as_form(schema, call.picture_fields.values())
        _drop_what_is_never_answered(described)
        if not needs_key:
            _drop_keys(described)
        app.openapi_schema = described
    return app.openapi_schema


def _drop_what_is_never_answered(described: dict[str, Any]) -> None:
    """Remove FastAPI's own 422; ours is in the envelope, and of idempotency keys alone."""
    own = "#/components/schemas/HTTPValidationError"
    for path in described["paths"].values():
        for operation in path.values():
            if own in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(name, None)


def _drop_keys(described: dict[str, Any]) -> None:
    """Remove keys of access from the description of a server that asks for none."""
    del described["components"]["securitySchemes"]
    for path in described["paths"].values():
        for operation in path.values():
            operation.pop("security", None)
            operation["responses"].pop("401", None)
