"""A video from its order to its file, under ComfyUI's progress bar and its Cancel."""

from __future__ import annotations

import io
import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import folder_paths
from comfy import model_management
from comfy.utils import ProgressBar
from PIL import Image

from ringlight.client import Client, Event, Preview, Progress, Unreachable, Video
from ringlight.core.errors import RinglightError

CANCEL_SECONDS = 0.2  # between two looks at Cancel while the server says nothing
PREVIEW_PIXELS = 512
WHOLE = 100
LOG = logging.getLogger(__name__)


class VideoFailed(Exception):
    """A video that the server took, and could not make: its words, and the code of the cause."""


def make(client: Client, prompt: str, **order: Any) -> tuple[Video, Path]:
    """The video of an order, and its file among ComfyUI's temporary ones. An interrupt cancels it on the server.

    Raises VideoFailed, and what the client does.
    """
    video = client.create(prompt, **order)
    with _cancelled_where_left(client, video.id):
        video = _followed(client, video.id)
    for warning in video.warnings:
        LOG.warning("%s: %s", video.id, warning.message)
    if video.status == "failed":
        cause = video.error
        raise VideoFailed("no cause was given" if cause is None else f"{cause.message} ({cause.code})")
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{video.id}.mp4"
    client.download(video.id, path)
    return video, path


@contextmanager
def _cancelled_where_left(client: Client, video_id: str) -> Iterator[None]:
    """Cancel the video where the block is left before its end: an interrupt is an exception too."""
    try:
        yield
    except BaseException:
        try:
            client.cancel(video_id)
        except RinglightError as error:
            LOG.warning("%s may go on, since the server could not be told to cancel it: %s", video_id, error)
        raise


def _followed(client: Client, video_id: str) -> Video:
    """The video once it is over, with what is told of it until then in the bar of the node that runs."""
    heard: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(client, video_id, heard), daemon=True).start()
    bar, percent = ProgressBar(WHOLE), 0
    while True:
        model_management.throw_exception_if_processing_interrupted()
        try:
            event = heard.get(timeout=CANCEL_SECONDS)
        except queue.Empty:
            continue
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Preview):
            bar.update_absolute(percent, WHOLE, ("JPEG", Image.open(io.BytesIO(event.image)), PREVIEW_PIXELS))
            continue
        assert isinstance(event, Video | Progress)
        percent = event.progress
        bar.update_absolute(percent, WHOLE)
        if isinstance(event, Video) and event.is_over:
            return event


def _listen(client: Client, video_id: str, heard: queue.SimpleQueue[Event | Exception]) -> None:
    """Put what happens to a video into a queue, up to its end or the error that hides it.

    Where the connection is lost it is asked after now and then, as `wait` does, which outlives a restart of the server.
    """
    try:
        try:
            for event in client.events(video_id):
                heard.put(event)
                if isinstance(event, Video) and event.is_over:
                    return
        except Unreachable:
            pass
        heard.put(client.wait(video_id, on_change=heard.put))
    except Exception as error:  # of whatever kind: it is raised where it can be shown
        heard.put(error)
