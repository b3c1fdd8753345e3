"""Wan2.2-I2V-A14B behind a server: it needs a picture, and has a guidance for each expert, at every door."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from ringlight.core.request import RequestDefaults, RequestLimits
from ringlight.families.table import known_model
from ringlight.server.api.routes.system import field_cards
from tests.server.browser import chromium, opened
from tests.server.served import serve

SMALL = {"prompt": "a cat", "num_inference_steps": 2, "num_frames": 5, "size": "48x32"}


@pytest.mark.parametrize(("name", "has_it"), [("Wan2.2-T2V-A14B", True), ("Wan2.2-TI2V-5B", False)])
def test_forms_are_offered_what_the_model_has(name: str, has_it: bool) -> None:
    cards = field_cards(RequestDefaults(), known_model(name), RequestLimits())
    assert ("guidance_scale_2" in [card.name for card in cards]) == has_it


@pytest.mark.slow
def test_a_picture_is_asked_for_and_both_guidances_are_told(
    tiny_i2v_a14b: Path, photograph: Path, tmp_path: Path
) -> None:
    with serve(tmp_path, tiny_i2v_a14b) as server, chromium() as browser:
        (model,) = server.http.get("/v1/models").json()["data"]
        assert (model["takes_picture"], model["needs_picture"]) == (True, True)
        assert model["defaults"]["guidance_scale_2"] == 3.5
        refused = server.http.post("/v1/videos", json=SMALL)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "input_reference"
        files = {"input_reference": photograph.read_bytes()}
        made = server.http.post("/v1/videos", data=SMALL | {"guidance_scale": 2}, files=files).json()
        assert (made["guidance_scale"], made["guidance_scale_2"]) == (2, 2)
        assert server.wait(made["id"])["status"] == "completed"
        extended = server.http.post("/v1/videos/extensions", json={"prompt": "on", "video": {"id": made["id"]}}).json()
        assert server.wait(extended["id"])["status"] == "completed"
        with opened(browser, server.url) as page:
            expect(page.get_by_text("First frame")).to_be_visible()
            expect(page.locator("#guidance_scale_2")).to_have_value("3.5")
            page.get_by_label("Prompt", exact=True).fill("from here to there")
            page.locator("[name=num_inference_steps]").evaluate("input => input.value = 1")
            page.locator("[name=num_frames]").evaluate("input => input.value = 5")
            for picker in ("#picture", "#last-picture"):
                page.set_input_files(picker, photograph)
            expect(page.get_by_alt_text("The last frame")).to_be_visible()
            page.locator("[name=width]").evaluate("input => input.value = 48")
            page.locator("[name=height]").evaluate("input => input.value = 32")
            with page.expect_response(lambda answer: answer.request.method == "POST") as answered:
                page.get_by_role("button", name="Make video").click()
            assert answered.value.ok, answered.value.text()
        (newest, *_) = server.http.get("/v1/videos").json()["data"]
        assert server.wait(newest["id"])["status"] == "completed"
        (kept,) = tmp_path.rglob("last_image")
        assert kept.read_bytes() == photograph.read_bytes()
