"""Every code of an error: who can mend it, what each door answers, what it means and what to do. Said here alone.

Codes of classes in core.errors cross processes; the others are answers of the API. Some never are an HTTP status: they
stand in the `error` of a video that failed, which itself is answered with 200. docs/troubleshooting.md is made of this.
"""

from __future__ import annotations

from typing import Literal

import msgspec

# asker: whoever made the request, by asking for something else. operator: by another setting, checkpoint or
# installation, and another start. time: the same may succeed when it is tried again.
Mender = Literal["asker", "operator", "time"]

EXIT_USAGE, EXIT_INVALID, EXIT_WORKER, EXIT_INTERRUPTED = 2, 3, 4, 130


class ErrorKind(msgspec.Struct, frozen=True):
    """Facts about an error, by its code: `status` of HTTP, and who can mend it.

    `retry`: what clients of OpenAI's kind are told in `x-should-retry`; None says nothing. `retry_seconds` go into
    Retry-After. `exit_code` is a command's. `ends_jobs`: metrics count jobs that ended with it. `is_usual`: an answer
    with this status that the framework itself gives has this code.
    """

    status: int
    mender: Mender
    meaning: str
    remedy: str
    retry: bool | None = None
    retry_seconds: float | None = None
    exit_code: int = EXIT_WORKER
    ends_jobs: bool = False
    is_usual: bool = False


CODES: dict[str, ErrorKind] = {
    "invalid_request": ErrorKind(
        400,
        "asker",
        "A field is missing, unknown, or has a value that cannot be made; the message names all problems.",
        "Correct the fields that the message names; it gives the nearest values that are right.",
        exit_code=EXIT_INVALID,
    ),
    "invalid_body": ErrorKind(
        400,
        "asker",
        "The body is not JSON, a form or multipart as its Content-Type says, or it ends early.",
        "Send Content-Type and body as the same client library makes them; for multipart, do not set the boundary.",
        is_usual=True,
    ),
    "invalid_layout": ErrorKind(
        400,
        "operator",
        "The layout asked for does not fit the ranks or the model.",
        "Leave `layout` out, or ask for degrees whose product is the server's number of ranks.",
        exit_code=EXIT_INVALID,
    ),
    "image_url_refused": ErrorKind(
        400,
        "asker",
        "The server may not fetch this URL: its host is not allowed, or its address is not a public one.",
        "Send the picture in the request, as a file or a data URL, or ask the operator to allow the host.",
    ),
    "image_url_failed": ErrorKind(
        400,
        "time",
        "The host of the picture did not answer with it in time and size.",
        "Try the URL yourself, or send the picture in the request.",
    ),
    "webhook_url_refused": ErrorKind(
        400,
        "asker",
        "The server may not call this URL: its host is not allowed, or its address is not a public one.",
        "Ask the operator to allow the host, or poll the video.",
    ),
    "webhook_url_failed": ErrorKind(
        400,
        "time",
        "The webhook's host did not answer in time.",
        "See that the host takes POST over http(s) and answers within seconds.",
    ),
    "invalid_api_key": ErrorKind(
        401,
        "asker",
        "The Authorization header is missing, or its key is not one of this server's.",
        "Send `Authorization: Bearer KEY` with a key that the operator gave out.",
        is_usual=True,
    ),
    "forbidden": ErrorKind(
        403,
        "operator",
        "The server refuses this to whoever asks.",
        "Nothing to do on the client's side; ask the operator.",
        is_usual=True,
    ),
    "invalid_link": ErrorKind(
        403,
        "asker",
        "The link to a video's file is over, was made before the server was started, or is not as it was given out.",
        "Ask for a new one: `POST /v1/videos/{id}/link`.",
    ),
    "not_found": ErrorKind(
        404,
        "asker",
        "There is no such path or video, it has expired, or it belongs to another key.",
        "Look at the id, and list the videos of this key.",
        is_usual=True,
    ),
    "model_not_found": ErrorKind(
        404,
        "asker",
        "The server does not serve the model asked for.",
        "Leave `model` out, or take a name from /v1/models.",
    ),
    "video_not_ready": ErrorKind(
        404,
        "time",
        "The video has no content yet, or never will because it failed.",
        "Poll the video until its status is completed.",
    ),
    "method_not_allowed": ErrorKind(
        405,
        "asker",
        "The path does not take this method.",
        "Use a method that the Allow header names.",
        is_usual=True,
    ),
    "request_timeout": ErrorKind(
        408,
        "time",
        "The body stopped coming before its end.",
        "Send it again, over a connection that is fast enough.",
        is_usual=True,
    ),
    "cancelled": ErrorKind(
        409,
        "asker",
        "Somebody cancelled the video before it was finished.",
        "Create it again if it is wanted.",
        retry=False,
        exit_code=EXIT_INTERRUPTED,
        ends_jobs=True,
    ),
    "video_not_finished": ErrorKind(
        409,
        "time",
        "A video can only be remixed or extended when it is completed.",
        "Wait until its status is completed.",
        retry=False,
    ),
    "body_too_large": ErrorKind(
        413,
        "asker",
        "The body is larger than the server takes.",
        "Send a smaller picture, or raise --max-body-bytes.",
        is_usual=True,
    ),
    "unsupported_media_type": ErrorKind(
        415,
        "asker",
        "The Content-Type of the body is none that this path reads.",
        "Send application/json, multipart/form-data or application/x-www-form-urlencoded.",
        is_usual=True,
    ),
    "range_not_satisfiable": ErrorKind(
        416,
        "asker",
        "The Range asked for lies outside the file.",
        "Ask for bytes within the Content-Length.",
        is_usual=True,
    ),
    "idempotency_conflict": ErrorKind(
        422, "asker", "The Idempotency-Key was used before with another body.", "Use a new key for a new request."
    ),
    "queue_full": ErrorKind(
        429,
        "time",
        "As many videos wait as the server lets wait.",
        "Try again after the seconds in Retry-After; the operator can raise --queue-size or add replicas.",
    ),
    "internal_error": ErrorKind(
        500,
        "time",
        "A defect of the server; its log has the traceback under the request's x-request-id.",
        "Report it with the x-request-id.",
    ),
    "out_of_memory": ErrorKind(
        500,
        "time",
        "The video did not fit the memory of a rank; later videos are not touched.",
        "Take fewer frames or a smaller size, or spread over more ranks.",
        retry=False,
        ends_jobs=True,
    ),
    "numerical_error": ErrorKind(
        500,
        "asker",
        "What a stage made held NaN or infinity; the message names the stage, and nothing was written.",
        "Do what the message says: bring guidance_scale and flow_shift near their defaults, or mend the weights.",
        retry=False,
        ends_jobs=True,
    ),
    "output_error": ErrorKind(
        500,
        "time",
        "The video could not be written.",
        "Look at the free space and the rights of the server's --data-dir.",
        retry=False,
        ends_jobs=True,
    ),
    "invalid_checkpoint": ErrorKind(
        500,
        "operator",
        "The folder of the model is no checkpoint that can be run.",
        "Run `ringlight doctor` on the server.",
        exit_code=EXIT_INVALID,
    ),
    "invalid_setting": ErrorKind(
        500,
        "operator",
        "A flag or a settings file of the server contradicts itself.",
        "See `ringlight serve --dry-run`.",
        exit_code=EXIT_INVALID,
    ),
    "invalid_installation": ErrorKind(
        500,
        "operator",
        "What workers need is not there on the server: a part of ringlight[worker], or a folder for temporary files.",
        "Do what the message names, and start the server again; `ringlight doctor` there says more.",
        exit_code=EXIT_INVALID,
    ),
    "error": ErrorKind(500, "time", "An error without a code of its own.", "Report it with the x-request-id."),
    "unsupported": ErrorKind(
        501,
        "asker",
        "The API knows this call, but the model cannot do it.",
        "Use another call or model.",
        retry=False,
        is_usual=True,
    ),
    "store_error": ErrorKind(
        503,
        "time",
        "The database of videos does not answer or cannot be written.",
        "Try again; the operator looks at the disk of --data-dir, or at the database of --store-url.",
        retry_seconds=5.0,
    ),
    "media_error": ErrorKind(
        503,
        "time",
        "The object store of the videos does not answer, or refuses.",
        "Try again; the operator looks at `media` in /health, and at the server's log for the reason.",
        retry_seconds=5.0,
    ),
    "worker_error": ErrorKind(
        503,
        "time",
        "A worker process died or failed unexpectedly, more often than a video is repeated.",
        "Try again; the operator finds the cause in the server's log.",
        retry_seconds=5.0,
        ends_jobs=True,
    ),
    "unavailable": ErrorKind(
        503,
        "time",
        "The server starts, or is being stopped.",
        "Try again; /readyz says when it is ready.",
        retry_seconds=5.0,
        is_usual=True,
    ),
    "deadline_exceeded": ErrorKind(
        504,
        "asker",
        "The video was not finished in the time it was given.",
        "Give a larger timeout_seconds, or ask for fewer frames or steps.",
        retry=False,
        ends_jobs=True,
    ),
}
