"""MediaStore: completed videos in S3, Google Cloud Storage or Azure, below one prefix that is a server's own.

    prefix/ringlight.json                   whose prefix it is
    prefix/videos/video_.../video.mp4       and thumbnail.webp, spritesheet.jpg

obstore is imported only where a URL is given. Credentials, region and endpoint are taken from its own environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import ringlight
from ringlight.core.errors import InvalidSetting, MediaError, NotFound, Occupied
from ringlight.server.collection.folder import VIDEO_ID
from ringlight.server.collection.refusals import StoreRefusal, one_line
from ringlight.server.http.content import CHUNK_BYTES, FileHead, Opened, Span

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta
    from obstore.store import AzureStore, GCSStore, S3Store

Method = Literal["GET", "HEAD"]

SCHEMES = ("s3", "gs", "az")
PLACE = re.compile(rf"(?:{'|'.join(SCHEMES)})://[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*")
CLAIM = "ringlight.json"
PART_BYTES, PARTS_AT_ONCE = 5 * 2**20, 4  # of an upload: what it holds in memory, and sends within STALL_SECONDS
STALL_SECONDS = 120
LEAST_READ_BYTES = 2**20
RETRIES = 2  # of one request, within seconds; whoever must not lose anything tries again later


class MediaStore:
    """The objects of a server. Its methods raise MediaError where the store does not answer, or refuses."""

    def __init__(self, store: S3Store | GCSStore | AzureStore, url: str) -> None:
        """Keep a store that begins at the prefix that `url` names."""
        from obstore import sign_async
        from obstore.exceptions import AlreadyExistsError, BaseError

        self.url = url
        self._store = store
        self._sign = sign_async
        self._exists, self._failures = AlreadyExistsError, (BaseError, OSError)

    @classmethod
    def open(cls, url: str) -> MediaStore:
        """Open the store at a URL. Connects to nothing. Raises InvalidSetting."""
        url = url.rstrip("/")
        if PLACE.fullmatch(url) is None:
            raise InvalidSetting(
                f"media-url {url!r} must be one such as s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
                ", of letters, digits, dots, dashes and underscores; credentials, region and endpoint belong in the"
                " environment"
            )
        try:
            from obstore.exceptions import BaseError
            from obstore.store import AzureStore, GCSStore, S3Store, from_url
        except ImportError as error:
            raise InvalidSetting(f"media-url needs obstore ({error}): pip install 'ringlight[object-store]'") from None
        try:
            store = from_url(
                url,
                client_options={
                    "connect_timeout": timedelta(seconds=5),
                    "read_timeout": timedelta(seconds=STALL_SECONDS),  # of a connection that stands still
                    "timeout": timedelta(days=1),  # of one that does not: a slow client of ours, say
                    "allow_http": True,  # where the operator's endpoint begins so
                    "user_agent": f"ringlight/{ringlight.__version__}",
                },
                retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=20)},
            )
        except (BaseError, ValueError) as error:
            raise InvalidSetting(f"media-url {url}: {one_line(error)}; set it in the environment") from None
        assert isinstance(store, (S3Store, GCSStore, AzureStore))
        return cls(store, url)

    def check(self) -> None:
        """Try all that a server will do there, and leave no trace of it.

        Raises InvalidSetting for what will never work, and MediaError where the store is away at this moment.
        """
        probe = f"probe-{uuid4().hex}"
        try:
            next(iter(self._store.list(chunk_size=1)), None)
            self._store.put(probe, b"may we write?")
            try:
                self._store.head(probe)
            finally:
                self._store.delete([probe])
        except self._failures as error:
            refusal = StoreRefusal.of(error)
            if refusal.is_lasting:
                raise InvalidSetting(
                    f"media-url {self.url}: {refusal.told}: {refusal.detail}; {refusal.remedy}"
                ) from error
            raise refusal.error() from error

    def claim(self, claim: str) -> None:
        """Reserve the prefix for those who know this `claim`, a text of the server's database.

        Raises InvalidSetting where others have it.
        """
        with self._answering():
            found = self._claimed()
            if found is None:
                try:
                    self._store.put(CLAIM, json.dumps({"claim": claim}).encode(), mode="create")
                    return
                except self._exists:
                    found = self._claimed()
        if found != claim:
            raise InvalidSetting(
                f"media-url {self.url} belongs to the server of another database, and one would remove the videos of"
                f" the other: give each a prefix of its own; if that server is no more, remove {self.url}/{CLAIM} and"
                " its videos"
            )

    def _claimed(self) -> str | None:
        try:
            content = bytes(self._store.get(CLAIM).bytes())
        except FileNotFoundError:
            return None
        try:
            return str(json.loads(content)["claim"])
        except (ValueError, KeyError, TypeError):
            return ""  # somebody's all the same

    def upload(self, video_id: str, files: Mapping[Path, str]) -> int:
        """Upload files of a video, given with their media types, in this order; returns the bytes of all.

        They are there when this returns. Raises FileNotFoundError where one of them is not on the disk.
        """
        size_bytes = sum(path.stat().st_size for path in files)
        for path, media_type in files.items():
            about = {
                "Content-Type": media_type,
                "Content-Disposition": f'inline; filename="{video_id}{path.suffix}"',
                "Cache-Control": "private, no-cache",
                "video": video_id,
                "ringlight": ringlight.__version__,
            }
            with self._answering():
                self._store.put(
                    _key(video_id, path.name),
                    path,
                    attributes=about,
                    chunk_size=PART_BYTES,
                    max_concurrency=PARTS_AT_ONCE,
                )
        return size_bytes

    def remove(self, video_id: str) -> None:
        """Remove all files of a video."""
        with self._answering():
            for page in self._store.list(_key(video_id, "")):
                self._store.delete([each["path"] for each in page])

    def video_ids(self) -> Iterator[str]:
        """Yield the videos that have files there, each once."""
        seen = ""
        with self._answering():
            for page in self._store.list("videos/", chunk_size=1000):
                for each in page:
                    _, video_id, *_ = [*each["path"].split("/"), ""]
                    if video_id != seen and VIDEO_ID.fullmatch(video_id) is not None:
                        seen = video_id
                        yield video_id

    def fetch(self, video_id: str, name: str, path: Path) -> None:
        """Write a file of a video to `path`. Raises NotFound, OSError."""
        with self._answering(video_id):
            chunks = self._store.get(_key(video_id, name)).stream(min_chunk_size=LEAST_READ_BYTES)
            with path.open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)

    async def address(self, video_id: str, name: str, method: Method, seconds: int) -> str:
        """Signed address at which anybody can use a file of a video for so long, by this method and no other."""
        with self._answering():
            return await self._sign(self._store, method, _key(video_id, name), timedelta(seconds=seconds))

    def file(self, video_id: str, name: str) -> StoredFile:
        """A file of a video, to be read when it is asked for."""
        return StoredFile(self, video_id, name)

    async def head(self, video_id: str, name: str) -> ObjectMeta:
        """Metadata of a file. Raises NotFound."""
        with self._answering(video_id):
            return await self._store.head_async(_key(video_id, name))

    async def read(self, video_id: str, name: str, span: Span, etag: str | None) -> AsyncGenerator[bytes]:
        """Yield the bytes of a span of a file that is still the one with this tag."""
        with self._answering(video_id):
            options = {"range": (span.start, span.stop)} | ({} if etag is None else {"if_match": etag})
            result: GetResult = await self._store.get_async(_key(video_id, name), options=options)  # type: ignore[arg-type]
            async for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)

    @contextmanager
    def _answering(self, video_id: str = "") -> Iterator[None]:
        """Raise MediaError for the store's errors in this context, and NotFound for a missing file of a video."""
        try:
            yield
        except FileNotFoundError as error:
            if video_id:
                raise NotFound(f"the file of {video_id} is gone") from error
            raise StoreRefusal.of(error).error() from error
        except self._failures as error:
            raise StoreRefusal.of(error).error() from error


def check_media(url: str) -> None:
    """Raise InvalidSetting unless videos can be stored at a URL; Occupied if the store is away at this moment."""
    try:
        MediaStore.open(url).check()
    except MediaError as error:
        raise Occupied(f"media-url {url}: {error}: {error.detail}; a server would wait for it") from error


class StoredFile:
    """A file of a video that lies in the store, as the source of an answer."""

    def __init__(self, media: MediaStore, video_id: str, name: str) -> None:
        self.media = media
        self.video_id = video_id
        self.name = name
        self._etag: str | None = None
        self.found = FileHead(0, "", 0.0)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Opened]:
        """Open the file; its bytes are fetched as they are sent. Raises NotFound, MediaError."""
        about = await self.media.head(self.video_id, self.name)
        self._etag, modified_at = about["e_tag"], about["last_modified"].timestamp()
        self.found = FileHead(about["size"], self._etag or f'"{modified_at:.0f}-{about["size"]:x}"', modified_at)
        yield self

    async def read(self, span: Span) -> AsyncGenerator[bytes]:
        """Yield the bytes of a span, in pieces."""
        if span.start < span.stop:
            async for chunk in self.media.read(self.video_id, self.name, span, self._etag):
                yield chunk

    def fetch(self, path: Path) -> None:
        """Write it to `path`. Raises NotFound, MediaError, OSError."""
        self.media.fetch(self.video_id, self.name, path)

    async def address(self, method: Method, seconds: int) -> str:
        """Signed address at which anybody can use the file for so long, by this method."""
        return await self.media.address(self.video_id, self.name, method, seconds)


def _key(video_id: str, name: str) -> str:
    return f"videos/{video_id}/{name}"
