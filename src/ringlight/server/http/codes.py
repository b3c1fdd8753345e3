"""Every code of an error that the API knows, with what it means and what to do about it.

Some never are an HTTP status: they stand in the `error` of a video that failed, which itself is answered with 200.
docs/troubleshooting.md is made from this table.
"""

from __future__ import annotations

import msgspec


class Code(msgspec.Struct, frozen=True):
    """What a code means. `retry`: what clients of OpenAI's kind are told in `x-should-retry`; None says nothing."""

    status: int
    meaning: str
    remedy: str
    retry: bool | None = None
    retry_seconds: float | None = None


CODES: dict[str, Code] = {
    "invalid_request": Code(
        400,
        "A field is missing, unknown, or has a value that cannot be made; the message names all problems.",
        "Correct the fields that the message names; it gives the nearest values that are right.",
    ),
    "invalid_body": Code(
        400,
        "The body is not JSON, a form or multipart as its Content-Type says, or it ends early.",
        "Send Content-Type and body as the same client library makes them; for multipart, do not set the boundary.",
    ),
    "invalid_layout": Code(
        400,
        "The layout asked for does not fit the ranks or the model.",
        "Leave `layout` out, or ask for degrees whose product is the server's number of ranks.",
    ),
    "image_url_refused": Code(
        400,
        "The server may not fetch this URL: its host is not allowed, or its address is not a public one.",
        "Send the picture in the request, as a file or a data URL, or ask the operator to allow the host.",
    ),
    "image_url_failed": Code(
        400,
        "The host of the picture did not answer with it in time and size.",
        "Try the URL yourself, or send the picture in the request.",
    ),
    "webhook_url_refused": Code(
        400,
        "The server may not call this URL: its host is not allowed, or its address is not a public one.",
        "Ask the operator to allow the host, or poll the video.",
    ),
    "webhook_url_failed": Code(
        400,
        "The webhook's host did not answer in time.",
        "See that the host takes POST over http(s) and answers within seconds.",
    ),
    "invalid_api_key": Code(
        401,
        "The Authorization header is missing, or its key is not one of this server's.",
        "Send `Authorization: Bearer KEY` with a key that the operator gave out.",
    ),
    "forbidden": Code(
        403, "The server refuses this to whoever asks.", "Nothing to do on the client's side; ask the operator."
    ),
    "not_found": Code(
        404,
        "There is no such path or video, it has expired, or it belongs to another key.",
        "Look at the id, and list the videos of this key.",
    ),
    "model_not_found": Code(
        404, "The server does not serve the model asked for.", "Leave `model` out, or take a name from /v1/models."
    ),
    "video_not_ready": Code(
        404,
        "The video has no content yet, or never will because it failed.",
        "Poll the video until its status is completed.",
    ),
    "method_not_allowed": Code(405, "The path does not take this method.", "Use a method that the Allow header names."),
    "request_timeout": Code(
        408, "The body stopped coming before its end.", "Send it again, over a connection that is fast enough."
    ),
    "cancelled": Code(
        409, "Somebody cancelled the video before it was finished.", "Create it again if it is wanted.", retry=False
    ),
    "video_not_finished": Code(
        409,
        "A video can only be remixed or extended when it is completed.",
        "Wait until its status is completed.",
        retry=False,
    ),
    "body_too_large": Code(
        413, "The body is larger than the server takes.", "Send a smaller picture, or raise --max-body-bytes."
    ),
    "unsupported_media_type": Code(
        415,
        "The Content-Type of the body is none that this path reads.",
        "Send application/json, multipart/form-data or application/x-www-form-urlencoded.",
    ),
    "range_not_satisfiable": Code(
        416, "The Range asked for lies outside the file.", "Ask for bytes within the Content-Length."
    ),
    "idempotency_conflict": Code(
        422,
        "The Idempotency-Key was used before with another body.",
        "Use a new key for a new request.",
    ),
    "queue_full": Code(
        429,
        "As many videos wait as the server lets wait.",
        "Try again after the seconds in Retry-After; the operator can raise --queue-size or add replicas.",
    ),
    "internal_error": Code(
        500,
        "A defect of the server; its log has the traceback under the request's x-request-id.",
        "Report it with the x-request-id.",
    ),
    "out_of_memory": Code(
        500,
        "The video did not fit the memory of a rank; later videos are not touched.",
        "Take fewer frames or a smaller size, or spread over more ranks.",
        retry=False,
    ),
    "numerical_error": Code(
        500,
        "What a stage made held NaN or infinity; the message names the stage, and nothing was written.",
        "Do what the message says: bring guidance_scale and flow_shift near their defaults, or mend the weights.",
        retry=False,
    ),
    "output_error": Code(
        500,
        "The video could not be written.",
        "Look at the free space and the rights of the server's --data-dir.",
        retry=False,
    ),
    "invalid_checkpoint": Code(
        500, "The folder of the model is no checkpoint that can be run.", "Run `ringlight doctor` on the server."
    ),
    "invalid_setting": Code(
        500, "A flag or a settings file of the server contradicts itself.", "See `ringlight serve --dry-run`."
    ),
    "invalid_installation": Code(
        500,
        "What workers need is not there on the server: torch or another package, or a folder for temporary files.",
        "Do what the message names, and start the server again; `ringlight doctor` there says more.",
    ),
    "error": Code(500, "An error without a code of its own.", "Report it with the x-request-id."),
    "unsupported": Code(
        501, "The API knows this call, but the model cannot do it.", "Use another call or model.", retry=False
    ),
    "store_error": Code(
        503,
        "The database of videos does not answer or cannot be written.",
        "Try again; the operator looks at the disk of --data-dir, or at the database of --store-url.",
        retry_seconds=5.0,
    ),
    "worker_error": Code(
        503,
        "A worker process died or failed unexpectedly, more often than a video is repeated.",
        "Try again; the operator finds the cause in the server's log.",
        retry_seconds=5.0,
    ),
    "unavailable": Code(
        503,
        "The server starts, or is being stopped.",
        "Try again; /readyz says when it is ready.",
        retry_seconds=5.0,
    ),
    "deadline_exceeded": Code(
        504,
        "The video was not finished in the time it was given.",
        "Give a larger timeout_seconds, or ask for fewer frames or steps.",
        retry=False,
    ),
}
