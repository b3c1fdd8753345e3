"""What is found again: videos by their words and status, what they were given, and files by their names."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from ringlight.server.api.routes.content import readable_name
from tests.server.served import NOBODY, Served, error_of


@pytest.mark.slow
def test_videos_are_found_by_words_and_status(served: Served) -> None:
    prompts = ("Foxglove beside a PYLON", "a pylon, 100%_of it", "a foxglove")
    ids = [served.completed(prompt=prompt)["id"] for prompt in prompts]
    failed = served.create(prompt="a pylon that fails", num_inference_steps=1000)["id"]
    served.http.post(f"/v1/videos/{failed}/cancel")

    def found(**asked: object) -> list[str]:
        answer = served.http.get("/v1/videos", params={"limit": 100, **asked})
        return [video["id"] for video in answer.json()["data"] if video["id"] in (*ids, failed)]

    assert found() == [failed, *ids[::-1]]
    assert found(search="pylon") == [failed, ids[1], ids[0]]
    assert found(search="pylon", order="asc") == [ids[0], ids[1], failed]
    assert found(search="  pylon foxglove ") == [ids[0]]
    assert found(search="0%_o") == [ids[1]]
    assert found(search="%") == [ids[1]]
    assert found(search="pylon", status="failed") == [failed]
    assert found(search="pylon", status="completed", after=ids[1]) == [ids[0]]
    assert found(search="nothing of the kind") == []
    assert error_of(served.http.get("/v1/videos", params={"search": "w" * 201}))["code"] == "invalid_request"
    assert error_of(served.http.get("/v1/videos", params={"status": "done"}))["code"] == "invalid_request"


@pytest.mark.slow
def test_the_picture_that_a_video_was_given(served: Served, photograph: Path) -> None:
    encoded = base64.b64encode(photograph.read_bytes()).decode()
    given = served.create(input_reference={"image_url": f"data:image/jpeg;base64,{encoded}"})
    assert given["pictures"] == ["image"]
    content = f"/v1/videos/{given['id']}/content"
    answer = served.http.get(content, params={"variant": "image"})
    assert answer.content == photograph.read_bytes()
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert served.http.get(content, params={"variant": "last_image"}).status_code == 404
    served.wait(given["id"])
    bare = served.completed()
    assert bare["pictures"] == []
    assert served.http.get(f"/v1/videos/{bare['id']}/content", params={"variant": "image"}).status_code == 404
    assert served.http.get(f"/v1/videos/{NOBODY}/content", params={"variant": "image"}).status_code == 404


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A paper boat, in the rain!", "a-paper-boat-in-the-rain-01234567.mp4"),
        ('Élan\r\nX-Evil: 1; filename="..\\', "elan-x-evil-1-filename-01234567.mp4"),
        ("雨の中の猫", "video-01234567.mp4"),
        ("../" * 40 + "etc", "etc-01234567.mp4"),
        ("w" * 500, "video-01234567.mp4"),
        ("word " * 40, "word-" * 12 + "01234567.mp4"),
    ],
)
def test_files_have_names_that_one_can_read(prompt: str, name: str) -> None:
    assert readable_name(prompt, "video_0123456789abcdef", ".mp4") == name
