"""Orders of `ringlight jobs`: one video, many of a file, one again with another prompt, one that goes on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ringlight.cli.batch import BatchFlags, BatchOrder, check_rows, create_rows, follow_rows
from ringlight.cli.connection import DEFAULT_URL, ApiKey, Failed, Json, Url, connected
from ringlight.cli.flags import with_flags
from ringlight.cli.request_flags import read_image
from ringlight.cli.shown import as_json
from ringlight.core.errors import InvalidRequest
from ringlight.core.order_fields import OrderFields
from ringlight.core.plain import counted, plain
from ringlight.core.video_fields import IN_EXTENSIONS, AskedFields

if TYPE_CHECKING:
    from ringlight.client import Client, Video

Source = Annotated[str, typer.Argument(help="Of a completed video.", show_default=False)]


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
    layout: Annotated[
        str | None, typer.Option(help="How the server's ranks share it, such as u1r2; left out: as the server says.")
    ] = None,
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
    asked = fields_of(video, order) | {"size": size, "layout": layout}
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
    say_made(made, json_)


@with_flags(only={"video": ["seed"]}, video=AskedFields, order=OrderFields)
def remix(
    *,
    video_id: Source,
    prompt: Annotated[str, typer.Option(help="What it shows instead.", show_default=False)],
    video: AskedFields,
    order: OrderFields,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
    json_: Json = False,
) -> None:
    """Order a video again with another prompt: with its settings, first frame and seed. Print the new one's id."""
    with connected(url, api_key) as client:
        made = client.remix(video_id, prompt, **fields_of(video, order))
    say_made(made, json_)


@with_flags(only={"video": IN_EXTENSIONS}, video=AskedFields, order=OrderFields)
def extend(
    *,
    video_id: Source,
    prompt: Annotated[str, typer.Option(help="How it goes on.", show_default=False)],
    last_image_path: Annotated[Path | None, typer.Option(help="Last frame, of models that take one.")] = None,
    seconds: Annotated[float | None, typer.Option(help="How long the new part is; or give --num-frames.")] = None,
    video: AskedFields,
    order: OrderFields,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
    json_: Json = False,
) -> None:
    """Order a video that goes on from the last frame of another, both joined. Print its id.

    What is left out is as in that one, but for the seed.
    """
    with connected(url, api_key) as client:
        last = read_image(last_image_path, "last_image")
        made = client.extend(video_id, prompt, seconds, last, **fields_of(video, order))
    say_made(made, json_)


def fields_of(video: AskedFields, order: OrderFields) -> dict[str, Any]:
    """The API's fields out of flags, of which None is left out."""
    return msgspec.structs.asdict(video) | msgspec.structs.asdict(order)


def say_made(made: Video, json_: bool) -> None:
    """Print what was ordered, and what is not quite as asked on stderr."""
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
