"""Wan2.1-T2V behind a server: it takes no pictures, and says so at every door."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.server.browser import chromium, opened
from tests.server.served import serve

pytestmark = pytest.mark.slow

SMALL = {"prompt": "a cat", "num_inference_steps": 1, "num_frames": 5}


def test_pictures_are_refused_and_not_asked_for(tiny21: Path, photograph: Path, tmp_path: Path) -> None:
    with serve(tmp_path, tiny21) as server, chromium() as browser:
        (model,) = server.http.get("/v1/models").json()["data"]
        assert not model["takes_picture"]
        assert (model["width_multiple"], model["defaults"]["fps"]) == (16, 16)
        refused = server.http.post("/v1/videos", data=SMALL, files={"input_reference": photograph.read_bytes()})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "input_reference"
        assert "of text alone" in refused.json()["error"]["message"]
        made = server.http.post("/v1/videos", json=SMALL).json()
        assert server.wait(made["id"])["status"] == "completed"
        extended = server.http.post("/v1/videos/extensions", json={"prompt": "on", "video": {"id": made["id"]}})
        assert extended.status_code == 400
        assert extended.json()["error"]["param"] == "video"
        with opened(browser, server.url) as page:
            expect(page.get_by_label("Prompt", exact=True)).to_be_visible()
            expect(page.get_by_text("First frame")).to_be_hidden()
            page.goto(f"/#/videos/{made['id']}")
            expect(page.get_by_role("button", name="Remix")).to_be_visible()
            expect(page.get_by_role("button", name="Extend")).to_be_hidden()
