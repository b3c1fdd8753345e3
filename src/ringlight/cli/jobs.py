"""`ringlight jobs`: the videos of a running server, from a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ringlight.cli.batch import (
    BatchFlags,
    BatchOrder,
    batch_in_short,
    batch_lines,
    check_rows,
    create_rows,
    follow_rows,
    is_batch,
    wait_batch,
)
from ringlight.cli.flags import with_flags
from ringlight.cli.progress import JobProgress
from ringlight.cli.request_flags import read_image
from ringlight.cli.signals import handled, interrupt
from ringlight.core.errors import InvalidRequest, InvalidSetting, RinglightError
from ringlight.core.order_fields import OrderFields
from ringlight.core.output import check_folder
from ringlight.core.plain import coded, counted, plain
from ringlight.core.video_fields import AskedFields
from ringlight.wire.model import OfferedLora

if TYPE_CHECKING:
    from ringlight.client import Batch, Client, Video

DEFAULT_URL = "http://127.0.0.1:8898"
WIDE = 500  # columns, where no terminal says how many there are: another program reads all of each line
PROMPT_CHARS = 60
MAX_RETRIES = 2  # a second and a half; whoever sits before a terminal would rather know
TIMES = ("created_at", "started_at", "completed_at", "expires_at")

jobs = typer.Typer(name="jobs", no_args_is_help=True, help="Videos of a running server: create, list, wait, download.")


class Variant(StrEnum):
    """File of a video that can be downloaded."""

    video = "video"
    thumbnail = "thumbnail"
    spritesheet = "spritesheet"


WAITS = {"Paused": "others go first", "Recovering": "its workers died"}
"""Stages in which a video waits, and why it does."""
EXTENSIONS = {Variant.video: "mp4", Variant.thumbnail: "webp", Variant.spritesheet: "jpg"}

Url = Annotated[str, typer.Option(help="Where the server is.", envvar="RINGLIGHT_URL")]
ApiKey = Annotated[
    str,
    typer.Option(help="Key to the server; better in the environment.", envvar="RINGLIGHT_API_KEY", show_default=False),
]
Limit = Annotated[int, typer.Option(min=1, help="At most so many, the newest.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
VideoId = Annotated[str, typer.Argument(help="Of the video.", show_default=False)]
VideoOrBatch = Annotated[str, typer.Argument(help="Of the video, or the batch.", show_default=False)]
VideosOrBatches = Annotated[list[str], typer.Argument(help="Of the videos, or batches.", show_default=False)]


class Refused(InvalidSetting):
    """Refusal by the server, with its message and code, raised as a mistake of this command's user."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class Failed(RinglightError):
    """A video that failed, with the code of its cause."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@jobs.command()
@with_flags(video=AskedFields, order=OrderFields, batch=BatchFlags)
def create(
    *,
    prompt: Annotated[
        str | None, typer.Option(help="What the video shows; or give --file.", show_default=False)
    ] = None,
    image_path: Annotated[
        Path | None, typer.Option(help="First frame: a picture, whose shape the video takes without a size.")
    ] = None,
    last_image_path: Annotated[Path | None, typer.Option(help="Last frame, of models that take one.")] = None,
    size: Annotated[str | None, typer.Option(help="Multiples of 32.", metavar="WxH")] = None,
    seconds: Annotated[float | None, typer.Option(help="Its length; or give --num-frames.")] = None,
    video: AskedFields,
    order: OrderFields,
    batch: BatchFlags,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
    json_: Json = False,
) -> None:
    """Order a video and print its id. What is left out follows from the server's defaults.

    With --file all rows of a file, at low priority: what other flags say holds for rows that say nothing else. The
    same command again goes on where it was left, and makes no row twice. Exit codes: 0 all were made, 3 a row cannot
    be, 4 some failed, 130 interrupted.
    """
    asked = msgspec.structs.asdict(video) | msgspec.structs.asdict(order) | {"size": size}
    asked["seconds"] = None if seconds is None else plain(seconds)
    if (prompt is None) == (batch.file is None):
        raise typer.BadParameter("give --prompt for a video, or --file for many", param_hint="'--prompt'")
    if prompt is None:
        if image_path or last_image_path:
            raise typer.BadParameter("pictures of a --file are in its columns", param_hint="'--image-path'")
        priority = asked.pop("priority")
        usual = msgspec.to_builtins({key: value for key, value in asked.items() if value is not None})
        with connected(url, api_key) as client:
            return create_batch(client, BatchOrder(flags=batch, usual=usual, priority=priority), json_)
    with connected(url, api_key) as client:
        pictures = {"image": read_image(image_path), "last_image": read_image(last_image_path, "last_image")}
        made = client.create(prompt or "", **pictures, **asked)
    for warning in made.warnings:
        print(f"note: {warning.message}", file=sys.stderr)
    print(as_json(made) if json_ else made.id)


def create_batch(client: Client, order: BatchOrder, json_: bool) -> None:
    """Order the rows of a file; unless that is not wanted, wait for them and report how they ended."""
    rows, skipped = check_rows(client, order)
    if order.flags.dry_run:
        print(f"{counted(len(rows), 'row')} can be made")
        return require_all(skipped)
    made, of_videos = create_rows(client, order, rows)
    if order.flags.no_wait:
        print(as_json(made) if json_ else made.id)
        return
    summary = follow_rows(client, order, made, of_videos, skipped)
    print(as_json(summary) if json_ else "\n".join(summary.lines()))
    if summary.failed:
        code = next(iter(summary.failed))
        raise Failed(code, f"{sum(map(len, summary.failed.values()))} of {len(rows)} rows are not made or not fetched")
    require_all(skipped)


def require_all(skipped: Sequence[int]) -> None:
    """Raise InvalidRequest where rows were left out."""
    if skipped:
        raise InvalidRequest.of("file", f"skipped {counted(len(skipped), 'row')} that cannot be made")


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
    variant: Annotated[Variant, typer.Option(help="The video, or a picture of it.")] = Variant.video,
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


@contextmanager
def connected(url: str, api_key: str) -> Iterator[Client]:
    """A client. What the server refuses becomes a mistake of the user's, what it fails at stays its own."""
    from ringlight.client import ApiError, Client  # here, because it takes long and only these commands need it

    with Client(url, api_key or None, max_retries=MAX_RETRIES) as client:
        try:
            yield client
        except ApiError as error:
            if error.status >= 500:
                raise
            param = f"{error.param}: " if error.param and not str(error).startswith(error.param) else ""
            raise Refused(error.code, f"{param}{error}") from None


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
