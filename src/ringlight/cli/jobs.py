"""`ringlight jobs`: the videos of a running server, from a terminal."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ringlight.cli.batch import batch_in_short, batch_lines, is_batch, wait_batch
from ringlight.cli.connection import DEFAULT_URL, ApiKey, Failed, Json, Url, connected
from ringlight.cli.orders import create, extend, remix
from ringlight.cli.progress import JobProgress
from ringlight.cli.shown import as_json, detail, lines, offer, table
from ringlight.cli.signals import handled, interrupt
from ringlight.core.errors import InvalidRequest
from ringlight.core.output import check_folder

if TYPE_CHECKING:
    from ringlight.client import Batch, Video

WIDE = 500  # columns, where no terminal says how many there are: another program reads all of each line

jobs = typer.Typer(name="jobs", no_args_is_help=True, help="Videos of a running server: create, list, wait, download.")


class Variant(StrEnum):
    """File of a video that can be downloaded."""

    video = "video"
    thumbnail = "thumbnail"
    spritesheet = "spritesheet"


EXTENSIONS = {Variant.video: "mp4", Variant.thumbnail: "webp", Variant.spritesheet: "jpg"}

Limit = Annotated[int, typer.Option(min=1, help="At most so many, the newest.")]
VideoId = Annotated[str, typer.Argument(help="Of the video.", show_default=False)]
VideoOrBatch = Annotated[str, typer.Argument(help="Of the video, or the batch.", show_default=False)]
VideosOrBatches = Annotated[list[str], typer.Argument(help="Of the videos, or batches.", show_default=False)]
FileOf = Annotated[Variant, typer.Option(help="The video, or a picture of it.")]

for command in (create, remix, extend):
    jobs.command()(command)


@jobs.command()
def loras(url: Url = DEFAULT_URL, api_key: ApiKey = "", json_: Json = False) -> None:
    """List the LoRAs that videos of the server may have (create --lora), and those that all have."""
    with connected(url, api_key) as client:
        offered = client.loras()
    said = "\n".join(map(offer, offered)) or "none: the server was started without --lora-dir"
    print(as_json(offered) if json_ else said)


@jobs.command()
def ls(
    limit: Limit = 20,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
    json_: Json = False,
) -> None:
    """List videos, the newest first."""
    with connected(url, api_key) as client:
        videos = list(client.list(limit))
    if json_:
        print(as_json(videos))
    else:
        Console(width=None if sys.stdout.isatty() else WIDE).print(table(videos))


@jobs.command()
def batches(
    limit: Limit = 20,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
    json_: Json = False,
) -> None:
    """List batches, the newest first."""
    with connected(url, api_key) as client:
        found = list(client.list_batches(limit))
    said = "\n".join(f"{each.id}  {batch_in_short(each)}  {each.name}" for each in found) or "none"
    print(as_json(found) if json_ else said)


@jobs.command()
def show(
    video_id: VideoOrBatch,
    report: Annotated[bool, typer.Option("--report", help="Where its time and memory went instead.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
    json_: Json = False,
) -> None:
    """Show all that is known of a video, or how far a batch is."""
    with connected(url, api_key) as client:
        if is_batch(video_id):
            found = client.get_batch(video_id)
            print(as_json(found) if json_ else "\n".join(batch_lines(found)))
        elif report:
            run = client.report(video_id)
            print(run.to_json().decode() if json_ else run.table(), end="" if json_ else "\n")
        else:
            video = client.get(video_id)
            print(as_json(video) if json_ else "\n".join(lines(video)))


@jobs.command()
def wait(
    video_id: VideoOrBatch,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds at most; exit code 4 after them.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
    json_: Json = False,
) -> None:
    """Wait for a video or a batch, with progress. Ctrl-C ends the waiting and nothing else.

    Exit codes: 0 completed, 4 failed or not over in time, 130 interrupted.
    """
    with connected(url, api_key) as client, JobProgress(quiet) as progress:

        def tell(video: Video) -> None:
            progress.show(video.progress, video.stage or video.status, detail(video), video.is_over)

        try:
            with handled(interrupt):
                if is_batch(video_id):
                    return tell_end(wait_batch(client, video_id, timeout, progress), json_)
                video = client.wait(video_id, timeout, tell)
        except KeyboardInterrupt:
            progress.say(f"it is still being made: ringlight jobs wait {video_id}, or cancel {video_id}")
            raise
        except TimeoutError as error:
            raise Failed("timeout", str(error)) from None
    print(as_json(video) if json_ else f"{video.id}  {video.status}")
    if video.error is not None:
        raise Failed(video.error.code, video.error.message)


def tell_end(found: Batch, json_: bool) -> None:
    """Print how a batch ended. Raises Failed unless all of it was made."""
    print(as_json(found) if json_ else f"{found.id}  {batch_in_short(found)}")
    if found.errors:
        raise Failed(next(iter(found.errors)), f"{found.request_counts.failed} of its requests failed")


@jobs.command()
def cancel(video_ids: VideosOrBatches, url: Url = DEFAULT_URL, api_key: ApiKey = "") -> None:
    """Stop videos, or all of batches; those that are over stay as they are."""
    with connected(url, api_key) as client:
        for video_id in video_ids:
            if is_batch(video_id):
                print(f"{video_id}  {batch_in_short(client.cancel_batch(video_id))}")
                continue
            video = client.cancel(video_id)
            print(f"{video.id}  {video.error.code if video.error else video.status}")


@jobs.command()
def rm(video_ids: VideosOrBatches, url: Url = DEFAULT_URL, api_key: ApiKey = "") -> None:
    """Remove videos from the server, or batches with all of theirs; those that are not over are stopped."""
    with connected(url, api_key) as client:
        for video_id in video_ids:
            (client.delete_batch if is_batch(video_id) else client.delete)(video_id)
            print(f"{video_id}  deleted")


@jobs.command()
def download(
    video_id: VideoId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where it goes; left out: its id, in this folder.")
    ] = None,
    variant: FileOf = Variant.video,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite what is there.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
) -> None:
    """Fetch a completed video into a file and print its path."""
    path = output or Path(f"{video_id}.{EXTENSIONS[variant]}")
    check_folder(path, "output")
    if path.exists() and not force:
        raise InvalidRequest.of("output", f"{path} is there already; use --force to overwrite it")
    with connected(url, api_key) as client:
        try:
            client.download(video_id, path, variant.value)
        except OSError as error:
            raise InvalidRequest.of("output", f"{path}: {error.strerror}") from None
    print(path)


@jobs.command()
def link(
    video_id: VideoId,
    variant: FileOf = Variant.video,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
    json_: Json = False,
) -> None:
    """Print a link to a completed video, for players and people without a key; it works for a while."""
    with connected(url, api_key) as client:
        made = client.link(video_id, variant.value)
    print(as_json(made) if json_ else made.url)
