"""
title: Ringlight video
description: Makes short videos on a Ringlight server, from a text or from a picture of the chat.
author: Ringlight
version: 0.1.0
license: Apache-2.0
"""

# Open WebUI reads annotations and docstrings of the methods below at run time: what a model is told of them is made of
# these. Names with underscores around them are given by Open WebUI, and no model hears of them.

import asyncio
import base64
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from ringlight.client import Client, Video
from ringlight.client.client import URL
from ringlight.core.errors import RinglightError

Emitter = Callable[[dict[str, Any]], Awaitable[Any]]
Shown = tuple[HTMLResponse, str]
PAGE = '<video controls loop style="max-width: 100%" title="{title}" src="data:video/mp4;base64,{content}"></video>'
DATA = "data:image/"


class Tools:
    """The functions that a model may call."""

    class Valves(BaseModel):
        """The settings of an administrator."""

        url: str = Field(
            default="", description=f"Where the server is. Empty: RINGLIGHT_URL of the environment, else {URL}."
        )
        api_key: str = Field(
            default="",
            description="Key to it. Empty: RINGLIGHT_API_KEY of the environment.",
            json_schema_extra={"input": {"type": "password"}},
        )
        fields: str = Field(
            default="{}",
            description='Fields of the API that each video has, as JSON: {"size": "1280x704", "sampler": "euler"}.',
        )

    def __init__(self) -> None:
        self.valves = self.Valves()

    async def make_video(
        self, prompt: str, seconds: float | None = None, __event_emitter__: Emitter | None = None
    ) -> Shown:
        """
        Make a short video of a text, and show it to the user.

        :param prompt: What the video shows, in one or two sentences.
        :param seconds: How long it is; left out, as the model has it.
        """
        return await self._make(__event_emitter__, prompt, seconds=seconds)

    async def make_video_of_picture(
        self,
        prompt: str,
        seconds: float | None = None,
        __messages__: list[dict[str, Any]] | None = None,
        __event_emitter__: Emitter | None = None,
    ) -> Shown:
        """
        Make a short video that begins with the newest picture of this chat, and show it to the user.

        :param prompt: What happens in the video, in one or two sentences.
        :param seconds: How long it is; left out, as the model has it.
        """
        picture = newest_picture(__messages__ or [])
        return await self._make(__event_emitter__, prompt, seconds=seconds, input_reference=picture)

    async def _make(self, emitter: Emitter | None, prompt: str, **fields: Any) -> Shown:
        url = self.valves.url or os.environ.get("RINGLIGHT_URL") or URL
        key = self.valves.api_key or os.environ.get("RINGLIGHT_API_KEY") or None
        usual = json.loads(self.valves.fields or "{}")
        with Client(url, key) as client:
            try:
                order = await asyncio.to_thread(client.create, prompt, **usual | fields)
                video = await followed(client, order.id, emitter)
                content = await asyncio.to_thread(content_of, client, video.id)
            except RinglightError as error:
                await tell(emitter, str(error), done=True)
                raise
        await tell(emitter, f"A video of {video.duration_seconds} s", done=True)
        page = PAGE.format(title=escape(prompt), content=base64.b64encode(content).decode())
        return HTMLResponse(page, headers={"Content-Disposition": "inline"}), told(video)


async def followed(client: Client, video_id: str, emitter: Emitter | None) -> Video:
    """The video once it is completed; until then the chat shows how far it is. Whoever stops the answer cancels it.

    Raises RinglightError with the server's words where it fails.
    """
    loop = asyncio.get_running_loop()

    def show(video: Video) -> None:
        if not video.is_over:
            asyncio.run_coroutine_threadsafe(tell(emitter, how_far(video)), loop)

    try:
        video = await asyncio.to_thread(client.wait, video_id, None, show)
    except BaseException:
        with suppress(RinglightError):  # the first error is the one to show
            await asyncio.to_thread(client.cancel, video_id)
        raise
    if video.status == "failed":
        raise RinglightError("no cause was given" if video.error is None else video.error.message)
    return video


async def tell(emitter: Emitter | None, description: str, done: bool = False) -> None:
    """Show a line above the answer."""
    if emitter is not None:
        await emitter({"type": "status", "data": {"description": description, "done": done}})


def how_far(video: Video) -> str:
    """A video that is not over, in a line."""
    if video.status == "queued":
        return f"Waits at place {video.queue_position}" if video.queue_position else "Waits"
    rest = f", {video.eta_seconds:.0f} s left" if video.eta_seconds else ""
    return f"{video.stage or 'Starts'}: {video.progress} %{rest}"


def told(video: Video) -> str:
    """Say to the model what its user sees."""
    notes = [warning.message for warning in video.warnings]
    shown = f"The video is shown to the user: {video.size}, {video.duration_seconds} s, seed {video.seed}."
    return " ".join([shown, *notes])


def content_of(client: Client, video_id: str) -> bytes:
    """Fetch the file of a completed video."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        client.download(video_id, path)
        return path.read_bytes()


def newest_picture(messages: list[dict[str, Any]]) -> str:
    """The last picture of a chat, as a data URL."""
    for message in reversed(messages):
        content = message.get("content")
        for part in reversed(content if isinstance(content, list) else []):
            address = part.get("image_url", {}).get("url", "") if part.get("type") == "image_url" else ""
            if address.startswith(DATA):
                return str(address)
    raise RinglightError("this chat has no picture; attach one to a message")
