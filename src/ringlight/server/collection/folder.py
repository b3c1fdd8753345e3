"""Folder of a server on the disk: one folder a video, held by one server at a time."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sqlalchemy import URL

from ringlight.core.errors import InvalidSetting, NotFound
from ringlight.core.files import write_out
from ringlight.server.collection.lock import ServerLock

STRANGE_SECONDS = 60.0  # one that has been there for less may be that of a call that is about to be answered
VIDEO, THUMBNAIL, SPRITESHEET = "video.mp4", "thumbnail.webp", "spritesheet.jpg"  # names of what is served
VIDEO_ID = re.compile(r"video_[0-9a-f]{32}")


@dataclass(frozen=True)
class VideoFolder:
    """The files of one video."""

    path: Path

    @property
    def image(self) -> Path:
        """The picture that it begins with, as it was sent."""
        return self.path / "input"

    @property
    def source(self) -> Path:
        """The video that it continues."""
        return self.path / "source.mp4"

    @property
    def state(self) -> Path:
        """State from which the video is resumed after its workers have died."""
        return self.path / "state.safetensors"

    @property
    def video(self) -> Path:
        return self.path / VIDEO

    @property
    def thumbnail(self) -> Path:
        return self.path / THUMBNAIL

    @property
    def spritesheet(self) -> Path:
        return self.path / SPRITESHEET

    def make(self) -> None:
        """Make the folder, for a new video."""
        self.path.mkdir()

    def sync(self) -> None:
        """Write the folder and the names in it to the disk."""
        write_out(self.path)
        write_out(self.path.parent)

    @property
    def last_image(self) -> Path:
        """The picture that it ends with."""
        return self.path / "last_image"

    def picture(self, name: str) -> Path:
        """Picture of a field."""
        return {"image": self.image, "last_image": self.last_image}[name]

    def write_pictures(self, pictures: Mapping[str, bytes]) -> None:
        """Write pictures, by their fields; their bytes are on the disk when this returns, their names after `sync`."""
        for name, encoded in pictures.items():
            with self.picture(name).open("wb") as file:
                file.write(encoded)
                file.flush()
                os.fsync(file.fileno())

    def keep_source(self, source: VideoFolder) -> None:
        """Keep the video that this one continues, also when that one is deleted."""
        try:
            os.link(source.video, self.source)
        except FileNotFoundError:
            raise NotFound("the video to go on from was deleted") from None
        except OSError:  # a file system without links
            shutil.copyfile(source.video, self.source)

    def remove_leftovers(self, is_completed: bool) -> None:
        """Remove files that served to make a video that is over. The picture stays, for a remix."""
        self.state.unlink(missing_ok=True)
        self.source.unlink(missing_ok=True)
        if not is_completed:
            self.video.unlink(missing_ok=True)

    def remove_media(self) -> None:
        """Remove files that are served from the object store now."""
        for path in (self.video, self.thumbnail, self.spritesheet):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.path, ignore_errors=True)


class DataFolder:
    """The folder of a server. `open` it once; no other server opens it until it is closed."""

    def __init__(self, path: Path, lock: ServerLock) -> None:
        self.path = path
        self._lock = lock
        self._known: dict[str, int] = {}  # folders that somebody knows, with the change that was seen last
        self._strange_since: dict[str, float] = {}

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the folder; make it if it is missing. Raises InvalidSetting if it cannot be used."""
        folder = Path(path).absolute()
        check_data_folder(folder)
        try:
            (folder / "videos").mkdir(parents=True, exist_ok=True)
            return cls(folder, _lock(folder))
        except OSError as error:
            raise InvalidSetting(f"data-dir {folder}: {error.strerror}; name a folder that can be written to") from None

    @property
    def store_url(self) -> URL:
        """URL of the database in it. Put together and not written out: `?` in a path is no query."""
        return URL.create("sqlite", database=str(self.path / "jobs.sqlite"))

    def of(self, video_id: str) -> VideoFolder:
        """Folder of a video. Raises NotFound for what is no video's name."""
        if VIDEO_ID.fullmatch(video_id) is None:
            raise NotFound(f"there is no video {video_id!r}")
        return VideoFolder(self.path / "videos" / video_id)

    def finished(self) -> Iterator[str]:
        """Yield the ids of videos that are whole in it."""
        return (path.parent.name for path in (self.path / "videos").glob("video_*/video.mp4"))

    def remove_strangers(self, is_known: Callable[[str], bool], now: float) -> None:
        """Remove folders of videos that nobody has known for a minute.

        They are of calls that were never answered, or of deleted videos. Asks only of folders that have changed.

        `now` is of a clock that only goes on: what a file system says of times may be anything. Raises OSError.
        """
        known, strange_since = {}, {}
        for path in (self.path / "videos").iterdir():
            if VIDEO_ID.fullmatch(path.name) is None:
                continue
            try:
                changed = path.stat().st_mtime_ns
            except FileNotFoundError:  # deleted at this moment
                continue
            if self._known.get(path.name) == changed or is_known(path.name):
                known[path.name] = changed
                continue
            since = strange_since[path.name] = self._strange_since.get(path.name, now)
            if now - since >= STRANGE_SECONDS:
                VideoFolder(path).remove()
        self._known, self._strange_since = known, strange_since

    def close(self) -> None:
        """Close the folder, so that another server may open it."""
        self._lock.close()


def check_data_folder(path: Path) -> None:
    """Raise InvalidSetting unless we may write into a folder, or may make it; Occupied if a server has it.

    Makes nothing.
    """
    folder = there = path.absolute()
    try:
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            raise InvalidSetting(f"data-dir {folder}: {there} is not a folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise InvalidSetting(f"data-dir {folder}: {there} is not writable; name another folder with --data-dir")
        if (folder / "lock").exists():
            _lock(folder).close()
    except OSError as error:  # such as a name that is too long
        raise InvalidSetting(f"data-dir {folder}: {error.strerror}; name a folder that can be written to") from None


def _lock(folder: Path) -> ServerLock:
    return ServerLock(folder / "lock", f"data-dir {folder} is in use by another server; name another folder")
