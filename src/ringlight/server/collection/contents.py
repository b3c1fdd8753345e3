"""Contents: the files of completed videos, which lie in the data folder or in an object store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from ringlight.core.errors import NotFound
from ringlight.core.files import write_out
from ringlight.server.collection.derived import make_spritesheet, make_thumbnail
from ringlight.server.collection.folder import SPRITESHEET, THUMBNAIL, VIDEO, DataFolder, VideoFolder
from ringlight.server.collection.media import MediaStore, StoredFile
from ringlight.server.collection.stored import StoredJob
from ringlight.server.http.content import LocalFile
from ringlight.server.http.http_error import VideoNotReady

Variant = Literal["video", "thumbnail", "spritesheet"]
Given = Literal["image", "last_image"]


class VariantKind(NamedTuple):
    """A file that is served of a video: its name, its media type, and what makes it of the video."""

    name: str
    media_type: str
    make: Callable[[Path, Path], None] | None = None


VARIANTS: dict[Variant, VariantKind] = {
    "video": VariantKind(VIDEO, "video/mp4"),
    "thumbnail": VariantKind(THUMBNAIL, "image/webp", make_thumbnail),
    "spritesheet": VariantKind(SPRITESHEET, "image/jpeg", make_spritesheet),
}


def made(folder: VideoFolder, variant: Variant) -> Path:
    """File of a video that is on the disk, or is made now. Raises OutputError."""
    kind = VARIANTS[variant]
    path = folder.path / kind.name
    if kind.make is not None and not path.exists():
        kind.make(folder.video, path)
    return path


class Contents:
    """Files of completed videos. Safe to use from any thread."""

    def __init__(self, folder: DataFolder, media: MediaStore | None) -> None:
        self._folder = folder
        self._media = media

    def find(self, stored: StoredJob, variant: Variant = "video") -> LocalFile | StoredFile:
        """Find a file of a video. Raises NotFound, VideoNotReady."""
        if stored.status != "completed":
            raise VideoNotReady(f"{stored.id} is {stored.status}; its content is there once it is completed")
        if stored.media_url is not None:
            return self._media_of(stored).file(stored.id, VARIANTS[variant].name)
        folder = self._folder.of(stored.id)
        path = made(folder, variant) if folder.video.exists() else folder.video
        if not path.exists():
            raise NotFound(f"the file of {stored.id} is gone")
        return LocalFile(path)

    @contextmanager
    def on_disk(self, stored: StoredJob) -> Iterator[Path]:
        """Provide a completed video as a file within the block. Raises NotFound, VideoNotReady, MediaError."""
        found = self.find(stored)
        if isinstance(found, LocalFile):
            yield found.path
            return
        with TemporaryDirectory(prefix="ringlight-") as folder:
            path = Path(folder) / found.name
            found.fetch(path)
            yield path

    def keep_source(self, source: StoredJob, folder: VideoFolder) -> None:
        """Copy a video that is continued to the folder of the one that continues it. Raises as `on_disk`, OSError."""
        found = self.find(source)
        if isinstance(found, LocalFile):
            folder.keep_source(self._folder.of(source.id))
        else:
            found.fetch(folder.source)
            write_out(folder.source)

    def given(self, stored: StoredJob, name: Given) -> LocalFile:
        """Picture that a video was given, of whatever kind that is. Raises NotFound if there is none."""
        path = self._folder.of(stored.id).picture(name)
        if name not in stored.pictures or not path.exists():
            raise NotFound(f"{stored.id} was given no {name}")
        return LocalFile(path)

    def pictures(self, stored: StoredJob) -> dict[str, bytes]:
        """The pictures that a request has, by their fields. Raises FileNotFoundError."""
        folder = self._folder.of(stored.id)
        return {name: folder.picture(name).read_bytes() for name in stored.pictures}

    def _media_of(self, stored: StoredJob) -> MediaStore:
        if self._media is None or self._media.url != stored.media_url:
            raise NotFound(f"the file of {stored.id} lies in another object store than this server has now")
        return self._media
