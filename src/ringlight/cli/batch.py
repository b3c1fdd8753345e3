"""A file of requests, made as a batch: checked, ordered, followed and fetched, and taken up again where it was left."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from ringlight.cli.progress import JobProgress
from ringlight.cli.rows import Fault, FileRow, read_rows
from ringlight.cli.signals import handled, interrupt
from ringlight.core.errors import InvalidRequest
from ringlight.core.fields import setting
from ringlight.core.output import part_path
from ringlight.core.plain import counted
from ringlight.wire.batch import MAX_REQUESTS, Batch, BatchRequest

if TYPE_CHECKING:
    from ringlight.client import Client

BATCH = "Batch"
CALL_BYTES = 32 * 2**20  # of requests in a call, unless one has more by itself
CODE_OF_FILES = "output_error"


class BatchFlags(msgspec.Struct, frozen=True, kw_only=True):
    """Flags for a file of requests."""

    file: Annotated[Path | None, setting("Many videos: CSV, TSV or JSON lines of the API's fields.", BATCH)] = None
    name: Annotated[str, setting("Of the batch, else the file's. Another one makes all anew.", BATCH)] = ""
    output_dir: Annotated[Path | None, setting("Folder for the videos, which are fetched as they end.", BATCH)] = None
    force: Annotated[bool, setting("Overwrite what is there.", BATCH)] = False
    retry_failed: Annotated[bool, setting("Make rows anew that failed or were cancelled.", BATCH)] = False
    skip_invalid: Annotated[bool, setting("Leave out rows that cannot be made.", BATCH)] = False
    dry_run: Annotated[bool, setting("Check all rows, and order nothing.", BATCH)] = False
    no_wait: Annotated[bool, setting("Print the id of the batch, and end.", BATCH)] = False
    quiet: Annotated[bool, setting("No progress.", BATCH, short="q")] = False


class BatchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A file of requests. `usual` are fields of all rows that say nothing of them."""

    flags: BatchFlags
    usual: dict[str, Any]
    priority: int | None = None

    @property
    def file(self) -> Path:
        assert self.flags.file is not None, "else there is nothing to order"
        return self.flags.file

    @property
    def name(self) -> str:
        return self.flags.name or self.file.name


class RowResult(msgspec.Struct, kw_only=True):
    """Outcome of a row. `output` is the path of its video, `problem` says why there is none."""

    line: int
    video_id: str
    status: str = "queued"
    code: str | None = None
    problem: str | None = None
    output: str | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of all rows. `skipped` are the lines of those that cannot be made."""

    batch_id: str
    name: str
    seconds: float
    output_dir: str | None
    counts: dict[str, int]
    failed: dict[str, list[int]]
    skipped: list[int]
    rows: list[RowResult]

    @property
    def is_whole(self) -> bool:
        """Whether every video was made, and lies where it was wanted."""
        return not self.failed and not self.skipped

    def lines(self) -> Iterator[str]:
        """Yield the summary in words."""
        files = sum(row.output is not None for row in self.rows)
        where = f"; {counted(files, 'file')} in {self.output_dir}" if self.output_dir is not None else ""
        yield f"{self.name} ({self.batch_id}): {counted(len(self.rows), 'request')} in {self.seconds:.0f} s"
        yield f"  {self.counts.get('completed', 0)} completed{where}"
        why = {row.code: row.problem for row in reversed(self.rows)}
        for code, lines in self.failed.items():
            said = f"  {len(lines)} {code}, on {_told(lines)}"
            yield said if why[code] == code else f"{said}: {why[code]}"
        if self.skipped:
            yield f"  {len(self.skipped)} skipped, on {_told(self.skipped)}"


def check_rows(client: Client, order: BatchOrder) -> tuple[list[FileRow], list[int]]:
    """Check the rows of a file; return those that can be made, and the lines of the others.

    Every fault is told on stderr. Invalid rows raise InvalidRequest, unless they are to be skipped. Nothing is created.
    """
    rows, found = read_rows(order.file, order.usual)
    faults = list(found)
    for part in parts_of(rows):
        checked = client.check_batch(order.name, [row.fields for row in part], order.priority)
        faults += [Fault(part[each.request].line, each.param or "row", each.message) for each in checked.problems]
    for line in told(faults, order.file):
        print(line, file=sys.stderr)
    wrong = {fault.line for fault in faults}
    left = [row for row in rows if row.line not in wrong]
    if wrong and (not order.flags.skip_invalid or not left):
        said = f"{len(wrong)} of {len(left) + len(wrong)} rows cannot be made; nothing was created"
        raise InvalidRequest.of("file", said)
    return left, sorted(wrong)


def create_rows(client: Client, order: BatchOrder, rows: Sequence[FileRow]) -> tuple[Batch, dict[str, FileRow]]:
    """Order the rows that are not ordered yet; return the batch, and its rows by the ids of their videos."""
    found: dict[str, FileRow] = {}
    for part in parts_of(rows):
        batch = client.create_batch(order.name, [row.fields for row in part], order.priority, order.flags.retry_failed)
        found |= {each.video_id: row for each, row in zip(batch.requests or (), part, strict=True)}
    return batch, found


def follow_rows(
    client: Client, order: BatchOrder, batch: Batch, rows: dict[str, FileRow], skipped: Sequence[int]
) -> Summary:
    """Wait until all rows are over, and fetch their videos as they end. Ctrl-C ends the waiting and not the batch."""
    began = time.monotonic()
    results = {video_id: RowResult(line=row.line, video_id=video_id) for video_id, row in rows.items()}
    with JobProgress(order.flags.quiet) as progress:

        def look(now: Batch) -> None:
            for request in now.requests or ():
                if request.video_id in rows and request.status != results[request.video_id].status:
                    _note(client, order, rows[request.video_id], request, results[request.video_id])
            show(progress, [result.status for result in results.values()])

        try:
            with handled(interrupt):
                client.wait_batch(batch.id, on_change=look)
        except KeyboardInterrupt:
            again = f"ringlight jobs cancel {batch.id}"
            progress.say(
                f"the batch goes on; the same command again takes it up where this left it; to stop it: {again}"
            )
            raise
    ended = sorted(results.values(), key=lambda result: result.line)
    return Summary(
        batch_id=batch.id,
        name=batch.name,
        seconds=round(time.monotonic() - began, 3),
        output_dir=None if order.flags.output_dir is None else str(order.flags.output_dir),
        counts=dict(Counter(result.status for result in ended)),
        failed=_by_code(ended),
        skipped=list(skipped),
        rows=ended,
    )


def _note(client: Client, order: BatchOrder, row: FileRow, request: BatchRequest, result: RowResult) -> None:
    """Note the new status of a row, and fetch its video if that is completed."""
    path = None if order.flags.output_dir is None else order.flags.output_dir / row.output
    result.status = request.status
    if request.error is not None:
        result.code, result.problem = request.error.code, request.error.message
    if request.status == "deleted":
        if path is not None and path.exists():  # fetched before it was deleted, or had expired
            result.status, result.output = "completed", str(path)
        else:
            result.code, result.problem = "not_found", "the video was made or ordered before, and is deleted"
    if request.status == "completed" and path is not None:
        _fetch(client, request, path, order.flags.force, result)


def _fetch(client: Client, request: BatchRequest, path: Path, force: bool, result: RowResult) -> None:
    """Write a video to its place, unless it is there; another file is left as it is without `force`."""
    microseconds = _time_of(request)
    is_there = path.exists() and path.stat().st_mtime_ns // 1000 == microseconds
    if path.exists() and not is_there and not force:
        result.code = CODE_OF_FILES
        result.problem = f"{path} is there already, of something else; --force overwrites it"
        return
    result.output = str(path)
    if is_there:
        return
    from ringlight.client import ApiError  # as in `jobs`: it takes long

    part = part_path(path, request.video_id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download(request.video_id, part)
        os.utime(part, ns=(1000 * microseconds, 1000 * microseconds))
        os.replace(part, path)
    except OSError as error:
        raise InvalidRequest.of("output-dir", f"{path}: {error.strerror}") from None
    except ApiError as error:
        if error.status != 404:
            raise
        result.output, result.code, result.problem = None, error.code, str(error)  # deleted at this moment
    finally:
        part.unlink(missing_ok=True)


def _time_of(request: BatchRequest) -> int:
    """Time of a video's file, by which the file is recognised.

    It is the second of the video's end, and as microseconds a number that follows from its id.
    """
    mark = int.from_bytes(hashlib.sha256(request.video_id.encode()).digest()[:8]) % 1_000_000
    return (request.completed_at or 0) * 1_000_000 + mark


def show(progress: JobProgress, statuses: Iterable[str]) -> None:
    """Show the progress of a batch in one line, from the status of each request."""
    counts = Counter(statuses)
    total, left = counts.total(), counts["queued"] + counts["in_progress"]
    others = (f"{counts[status]} {status.replace('_', ' ')}" for status in sorted(counts) if status != "completed")
    told = ", ".join((f"{total - left} of {total}", *others))
    progress.show(100 * (total - left) // total, "batch", told, left == 0)


def wait_batch(client: Client, batch_id: str, timeout_seconds: float | None, progress: JobProgress) -> Batch:
    """Wait for all of a batch, with progress. Raises TimeoutError."""
    return client.wait_batch(
        batch_id, timeout_seconds, lambda now: show(progress, [request.status for request in now.requests or ()])
    )


def parts_of(rows: Iterable[FileRow]) -> Iterator[list[FileRow]]:
    """Split rows into calls. Equal rows go into one call, because only that tells the server that they are several."""
    alike: dict[bytes, list[FileRow]] = defaultdict(list)
    for row in rows:
        alike[msgspec.json.encode(row.fields, order="deterministic")].append(row)
    part: list[FileRow] = []
    num_bytes = 0
    for encoded, group in alike.items():
        size = len(encoded) * len(group)
        if part and (num_bytes + size > CALL_BYTES or len(part) + len(group) > MAX_REQUESTS):
            yield part
            part, num_bytes = [], 0
        part += group
        num_bytes += size
    if part:
        yield part


def told(faults: Iterable[Fault], file: Path) -> Iterator[str]:
    """Yield a line for each kind of fault: where it comes first and how often."""
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for fault in sorted(faults):
        alike[fault.field, fault.message].append(fault.line)
    for (field, message), lines in alike.items():
        more = f" (and on {_told(lines[1:])})" if len(lines) > 1 else ""
        yield f"{file}:{lines[0]}: {field}: {message}{more}"


def _told(lines: Sequence[int], most: int = 5) -> str:
    shown = ", ".join(map(str, lines[:most]))
    left = len(lines) - most
    return f"line{'s' if len(lines) > 1 else ''} {shown}{f' and {left} more' if left > 0 else ''}"


def _by_code(results: Iterable[RowResult]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for result in results:
        if result.code is not None:
            found[result.code].append(result.line)
    return dict(found)


def is_batch(some_id: str) -> bool:
    """Whether an id is a batch's, and not a video's."""
    return some_id.startswith("batch_")


def batch_in_short(found: Batch) -> str:
    """Counts of requests by status, in one line."""
    counts: dict[str, int] = msgspec.to_builtins(found.request_counts)
    total = counts.pop("total")
    return f"{counted(total, 'request')}: " + ", ".join(
        f"{count} {status}" for status, count in counts.items() if count
    )


def batch_lines(found: Batch) -> Iterator[str]:
    """Yield a line for a batch, and one for each of its requests."""
    yield f"{found.name}, {batch_in_short(found)}"
    for request in found.requests or ():
        yield f"{request.video_id}  {request.error.code if request.error else request.status}"
