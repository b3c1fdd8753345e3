"""Logs: one format for structlog and `logging`, ids in every line, no secrets, and nothing that a client can forge.

What is configured is a whole process, so each format is tried in one of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from ringlight.server.observability.logs import CONTROLS, escape_controls, hide_secrets

KEY = "sk-0123456789abcdef"
PROGRAM = f"""
import logging, logging.config, warnings
import structlog, uvicorn.config
from ringlight.server.observability.logs import configure_logs

logging.config.dictConfig(uvicorn.config.LOGGING_CONFIG)
configure_logs(FORMAT, "info")
configure_logs(FORMAT, "info")  # again: nothing is written twice
structlog.contextvars.bind_contextvars(request_id="req_1", job_id="video_1", owner="alice")
logging.getLogger("ringlight.engine").info("replica %d is %s", 0, "ready", extra={{"rank": 3}})
structlog.get_logger("ringlight.server").warning("slow", seconds=1.5)
logging.getLogger("uvicorn.error").info("Started", extra={{"color_message": "in colors"}})
logging.getLogger("ringlight").info("a line\\n2026-01-01 [error] forged\\x1b[2J")
structlog.get_logger("ringlight").info("call", Authorization="Bearer {KEY}", note="Bearer {KEY} was sent")
logging.getLogger("ringlight").info("headers %s", [(b"authorization", b"Bearer {KEY}")])
structlog.get_logger("ringlight").info("nested", scope={{"headers": [{{"Cookie": "{KEY}"}}], 7: (b"Bearer {KEY}",)}})
structlog.contextvars.clear_contextvars()
try:
    password = "{KEY}"
    raise ValueError("not with Bearer {KEY}")
except ValueError:
    logging.getLogger("ringlight").exception("failed")
logging.getLogger("ringlight").debug("too quiet")
logging.getLogger("httpx").info("too chatty")
logging.getLogger("sqlalchemy.engine").info("too chatty")
logging.getLogger("sqlalchemy.pool").error("worth a line")
warnings.warn("an old way", stacklevel=1)
"""


def run(format_name: str, program: str = PROGRAM) -> list[str]:
    program = program.replace("FORMAT", repr(format_name))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    return done.stderr.splitlines()


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("json")]


def line(lines: list[dict[str, Any]], start: str) -> dict[str, Any]:
    (found,) = [each for each in lines if each["event"].startswith(start)]
    return found


def test_json_has_a_line_for_each_event_of_either_kind(lines: list[dict[str, Any]]) -> None:
    events = [each["event"] for each in lines]
    assert events[:4] == ["replica 0 is ready", "slow", "Started", "a line\n2026-01-01 [error] forged\x1b[2J"]
    assert [each["logger"] for each in lines][:3] == ["ringlight.engine", "ringlight.server", "uvicorn.error"]
    assert events[-2] == "worth a line" and "an old way" in events[-1]
    assert not [event for event in events if "too" in event]


def test_ids_and_fields_stand_in_every_line(lines: list[dict[str, Any]]) -> None:
    ours = {"request_id": "req_1", "job_id": "video_1", "owner": "alice"}
    assert line(lines, "replica").items() >= (ours | {"rank": 3, "level": "info"}).items()
    assert line(lines, "slow").items() >= (ours | {"seconds": 1.5, "level": "warning"}).items()
    assert "color_message" not in line(lines, "Started")
    assert not line(lines, "failed").keys() & ours


def test_times_are_utc_in_iso_8601(lines: list[dict[str, Any]]) -> None:
    times = [datetime.fromisoformat(each["timestamp"]) for each in lines]
    assert {time.tzinfo for time in times} == {UTC}
    assert times == sorted(times)


def test_no_format_shows_a_secret(lines: list[dict[str, Any]]) -> None:
    assert KEY not in json.dumps(lines)
    assert line(lines, "call")["Authorization"] == "[hidden]"
    assert line(lines, "call")["note"] == "Bearer [hidden] was sent"
    assert not [each for each in run("console") if KEY in each]
    assert KEY in PROGRAM


def test_a_traceback_is_data_without_local_variables(lines: list[dict[str, Any]]) -> None:
    (error,) = line(lines, "failed")["exception"]
    assert error["exc_type"] == "ValueError"
    assert error["exc_value"] == "not with Bearer [hidden]"
    assert error["frames"][-1].keys() == {"filename", "lineno", "name"}


def test_console_lines_cannot_be_forged() -> None:
    lines = run("console")
    (forged,) = [line for line in lines if "forged" in line]
    assert "a line\\n2026-01-01 [error] forged\\x1b[2J" in forged
    assert not [line for line in lines if "\x1b" in line]
    starts = [line for line in lines if re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[", line)]
    assert len(starts) == len(run("json"))
    assert "ValueError: not with Bearer [hidden]" in lines
    assert "request_id=req_1" in starts[0] and "rank=3" in starts[0]


def test_debug_shows_what_is_ours_and_no_rows_or_bodies_of_libraries() -> None:
    program = PROGRAM.replace('configure_logs(FORMAT, "info")', 'configure_logs(FORMAT, "debug")')
    events = [json.loads(line)["event"] for line in run("json", program)]
    assert [event for event in events if "too" in event] == ["too quiet"]


def test_all_controls_are_escaped() -> None:
    every = "".join(map(chr, range(0x100)))
    (escaped,) = escape_controls(None, "", {"event": every}).values()
    assert escaped.isprintable() or [char for char in escaped if not char.isprintable()] == ["\xa0", "\xad"]
    assert len(CONTROLS) == 65


def test_what_is_no_secret_stays_as_it_is() -> None:
    event = {"event": "a bearer", "count": 3, "path": "/v1/videos", "items": [1, None], "key_name": "alice"}
    assert hide_secrets(None, "", dict(event)) == event
