"""Logs of a server: structlog and the standard library's loggers in one format, on stderr, without secrets."""

from __future__ import annotations

import io
import logging
import re
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from ringlight.core.settings import LogFormat, LogLevel

SECRETS = frozenset({"authorization", "cookie", "api_key", "api_keys", "webhook_secret", "webhook-signature"})
HIDDEN = "[hidden]"
TOKEN = re.compile(r"(?i)\b(bearer\s+|whsec_)[^\s'\",;]+")
CHATTY = ("httpx", "httpcore", "sqlalchemy", "urllib3", "multipart", "asyncio", "python_multipart")
UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: "\\n", 13: "\\r", 9: "\\t"}


def configure_logs(format: LogFormat, level: LogLevel) -> None:  # noqa: A002 (the setting's name)
    """Send everything that is logged in this process to stderr, a line each; may be called again.

    What is bound to structlog's contextvars (request_id, job_id, owner) stands in every line, also in those of
    `logging`. Chatty libraries tell warnings alone, whatever the level: with rows and bodies they would tell prompts.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        hide_secrets,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), drop_colors, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(format)],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in UVICORN:  # its own handlers would write each line again
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _renderers(format: LogFormat) -> list[Processor]:  # noqa: A002
    if format == "json":
        traceback = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # locals may hold secrets
        return [structlog.processors.ExceptionRenderer(traceback), hide_secrets, structlog.processors.JSONRenderer()]
    return [escape_controls, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_traceback)]


def _traceback(output: TextIO, error: ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, error)
    output.write(_without_secrets(text.getvalue()))


def drop_colors(logger: Any, name: str, event: EventDict) -> EventDict:
    """Drop uvicorn's second, coloured copy of each message; a processor."""
    event.pop("color_message", None)
    return event


def hide_secrets(logger: Any, name: str, event: EventDict) -> EventDict:
    """Hide secrets wherever they stand in an event; a processor."""
    return {key: HIDDEN if str(key).lower() in SECRETS else _without_secrets(value) for key, value in event.items()}


def _without_secrets(value: Any) -> Any:
    match value:
        case str():
            return TOKEN.sub(rf"\1{HIDDEN}", value)
        case dict():
            return hide_secrets(None, "", value)
        case bytes():
            return _without_secrets(value.decode("latin-1"))
        case list() | tuple():
            return [_without_secrets(item) for item in value]
    return value


def escape_controls(logger: Any, name: str, event: EventDict) -> EventDict:
    """Escape control characters of clients, which could begin a line or steer the terminal; a processor."""
    return {key: value.translate(CONTROLS) if isinstance(value, str) else value for key, value in event.items()}
