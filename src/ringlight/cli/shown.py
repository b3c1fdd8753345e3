"""Output of `ringlight jobs`: videos as lines and tables, LoRAs that are offered, answers as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from ringlight.core.plain import coded, plain
from ringlight.core.video_fields import AskedFields
from ringlight.wire.model import OfferedLora
from ringlight.wire.video import Video

PROMPT_CHARS = 60
TIMES = ("created_at", "started_at", "completed_at", "expires_at")
WAITS = {"Paused": "others go first", "Recovering": "its workers died"}
"""Stages in which a video waits, and why it does."""


def table(videos: list[Video]) -> Table:
    """Table with a line for each video."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "status", "%", "size", "frames", "steps", "prompt"):
        found.add_column(name, no_wrap=True, justify="right" if name in ("%", "frames", "steps") else "left")
    for video in videos:
        status = video.error.code if video.error else video.status
        if video.status == "in_progress":
            status = video.stage or status
        numbers = (video.num_frames, video.num_inference_steps)
        prompt = " ".join((video.prompt or "").split())
        shown = prompt if len(prompt) <= PROMPT_CHARS else f"{prompt[: PROMPT_CHARS - 3]}..."
        row = [video.id, status, str(video.progress), video.size or "", *("" if n is None else str(n) for n in numbers)]
        found.add_row(*row, Text(shown))
    return found


def lines(video: Video) -> Iterator[str]:
    """Yield a line for each field that has a value."""
    fields: dict[str, Any] = msgspec.to_builtins(video)
    for name in sorted(fields, key=AskedFields.__struct_fields__.__contains__):  # those that were asked come last
        value = fields[name]
        if value is None or value == []:
            continue
        if name in TIMES:
            value = datetime.fromtimestamp(value).astimezone().isoformat(" ", "seconds")
        elif name == "error":
            value = coded(value["code"], value["message"])
        elif name == "warnings":
            value = f"\n{'':<22} ".join(warning["message"] for warning in value)
        elif name == "stages":
            value = ", ".join(f"{stage['name']} {stage['seconds']:.2f} s" for stage in value)
        elif name == "lora":
            value = ", ".join(map(str, video.lora or ()))
        elif name == "memory":
            continue  # a table of its own: --report
        yield f"{name:<22} {value}"


def detail(video: Video) -> str:
    """Step, place in the queue and ETA, as far as they are known; of one that does not go on also why."""
    parts = [WAITS[video.stage]] if video.stage in WAITS else []
    if video.queue_position:
        parts.append(f"place {video.queue_position} in the queue")
    if video.step and video.num_inference_steps:
        parts.append(f"step {video.step}/{video.num_inference_steps}")
    if video.eta_seconds is not None:
        parts.append(f"{video.eta_seconds:.0f} s left")
    return ", ".join(parts)


def offer(lora: OfferedLora) -> str:
    """A LoRA as it is named, and what is done with it unless somebody says otherwise."""
    if lora.problem is not None:
        return f"{lora.name}  (cannot be used: {lora.problem})"
    target = "" if lora.target == "both" else f", {lora.target} noise"
    how = f"in every video, strength {plain(lora.strength)}{target}" if lora.is_always_on else target.removeprefix(", ")
    return f"{lora.name}  ({how})" if how else lora.name


def as_json(value: msgspec.Struct | Sequence[msgspec.Struct]) -> str:
    """Indented JSON of an answer, or of several as an array."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
