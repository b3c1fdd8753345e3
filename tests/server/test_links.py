"""Links to files of videos: who gets one, what it lets in, and what ends it."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from ringlight.core.clock import Clock
from ringlight.server.http.http_error import HttpError
from ringlight.server.safety.links import ContentLinks
from tests.server.filled import fill
from tests.server.served import NOBODY, Served, error_of

ALICE, BOB = "a" * 20, "b" * 20
SECONDS = 600


class Stopped(Clock):
    """A clock that stands where a test sets it."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.4

    def wall(self) -> float:
        return self.now


def taken_apart(url: str) -> dict[str, str]:
    return dict(httpx.URL(url).params)


def test_a_link_works_until_it_is_over() -> None:
    clock = Stopped()
    links = ContentLinks(SECONDS, clock)
    link = links.sign(NOBODY, "video")
    signature = taken_apart(link.url)["signature"]
    assert link.expires_at == 1_700_000_601
    assert links.seconds_left(NOBODY, "video", link.expires_at, signature) == SECONDS + 1
    clock.now += SECONDS
    assert links.seconds_left(NOBODY, "video", link.expires_at, signature) == 1
    clock.now += 1
    with pytest.raises(HttpError, match="is over") as refused:
        links.seconds_left(NOBODY, "video", link.expires_at, signature)
    assert (refused.value.status, refused.value.code) == (403, "invalid_link")


def test_a_link_is_of_one_file_one_end_and_one_start_of_the_server() -> None:
    clock = Stopped()
    links, another = ContentLinks(SECONDS, clock), ContentLinks(SECONDS, clock)
    link = links.sign(NOBODY, "video")
    signature = taken_apart(link.url)["signature"]
    other = f"video_{'1' * 32}"
    right = (NOBODY, "video", link.expires_at, signature)
    wrong = [
        (other, "video", link.expires_at, signature),
        (NOBODY, "thumbnail", link.expires_at, signature),
        (NOBODY, "video", link.expires_at + 1, signature),
        (NOBODY, "video", 0, signature),
        *((NOBODY, "video", link.expires_at, text) for text in ("", signature[:-1], signature.upper(), "é", "\ud800")),
    ]
    assert links.seconds_left(*right) > 0
    for each in wrong:
        with pytest.raises(HttpError, match="not one that this server has made"):
            links.seconds_left(*each)
    with pytest.raises(HttpError, match="since it was started"):
        another.seconds_left(*right)


class Behind(NamedTuple):
    """A server with keys, and the videos that alice has there: one to look at, one to delete."""

    server: Served
    video_id: str
    doomed_id: str

    def link(self, key: str = ALICE, **query: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        return self.server.http.post(f"/v1/videos/{self.video_id}/link", params=query, headers=headers)


@contextmanager
def listening(folder: Path, checkpoint: Path, *names: str) -> Iterator[Served]:
    """A server with keys of these names, which need not make anything."""
    keys = [part for name in names for part in ("--api-key", f"{name}:{name[0] * 20}")]
    options = ["--no-warm-up", "--drain-timeout", 0, "--media-link-seconds", SECONDS]
    server = Served(folder, checkpoint, *options, *keys)
    try:
        server.wait_until_listening()
        yield server
    finally:
        server.stop(signal.SIGTERM)


@pytest.fixture(scope="module")
def behind(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    folder = tmp_path_factory.mktemp("linked")
    video_id, doomed_id = fill(folder / "data", 2, owner="alice")
    with listening(folder, tiny, "alice", "bob") as server:
        yield Behind(server, video_id, doomed_id)


@pytest.mark.slow
def test_a_link_needs_no_key_and_gives_the_file_in_parts(behind: Behind) -> None:
    answer = behind.link()
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    link = answer.json()
    assert link["object"] == "video.link" and str(link["expires_at"]) == taken_apart(link["url"])["expires"]
    http = behind.server.http
    whole = http.get(link["url"])
    assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
    assert whole.headers["content-disposition"].startswith('inline; filename="a-boat-in-the-fog-')
    part = http.get(link["url"], headers={"range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert http.get(link["url"], headers={"authorization": "Bearer of another server"}).status_code == 200
    head = http.head(link["url"])
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(whole.content)))
    picture = http.get(behind.link(variant="thumbnail").json()["url"])
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/webp")


@pytest.mark.slow
def test_who_gets_no_link(behind: Behind) -> None:
    assert behind.link("c" * 20).status_code == 401
    theirs = behind.link(BOB)
    assert (theirs.status_code, error_of(theirs)["code"]) == (404, "not_found")
    headers = {
        "authorization": f"Bearer {ALICE}",
        "sec-fetch-site": "cross-site",
        "origin": "https://elsewhere.example",
    }
    path = f"/v1/videos/{behind.video_id}/link"
    assert behind.server.http.post(path, headers=headers).status_code == 403
    assert behind.server.http.get(path, headers=headers).status_code == 405


@pytest.mark.slow
def test_what_a_link_does_not_let_in(behind: Behind) -> None:
    url, http = behind.link().json()["url"], behind.server.http
    signature = taken_apart(url)["signature"]
    changed = [
        url.replace("variant=video", "variant=thumbnail"),
        re.sub(r"expires=\d+", "expires=99999999999", url),
        re.sub(r"&expires=\d+", "", url),
        url.replace(behind.video_id, NOBODY),
        url.replace(signature, "0" * 64),
        url.replace(signature, ""),
    ]
    for each in changed:
        answer = http.get(each)
        assert (answer.status_code, error_of(answer)["code"]) == (403, "invalid_link"), each
    query = url.partition("?")[2]
    for tail in ("", "/report", "/events"):  # a link is of content alone
        assert http.get(f"/v1/videos/{behind.video_id}{tail}?{query}").status_code == 401
    assert http.delete(f"/v1/videos/{behind.video_id}?{query}").status_code == 401
    assert signature not in behind.server.log


@pytest.mark.slow
def test_a_link_ends_with_its_video(behind: Behind) -> None:
    http, path = behind.server.http, f"/v1/videos/{behind.doomed_id}"
    headers = {"authorization": f"Bearer {ALICE}"}
    link = http.post(f"{path}/link", headers=headers).json()["url"]
    assert http.get(link).status_code == 200
    assert http.delete(path, headers=headers).is_success
    assert http.get(link).status_code == 404


@pytest.mark.slow
def test_a_link_ends_with_the_key_that_it_was_made_for(behind: Behind, tiny: Path, tmp_path: Path) -> None:
    """Keys are read at a start, and no server takes the links of the one before."""
    link = behind.link().json()["url"]
    shutil.copytree(behind.server.folder / "data", tmp_path / "data")
    with listening(tmp_path, tiny, "bob") as server:
        answer = server.http.get(link)
        assert (answer.status_code, error_of(answer)["code"]) == (403, "invalid_link")
    assert behind.server.http.get(link).status_code == 200
