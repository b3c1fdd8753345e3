"""The page as somebody works with it for a while: many videos, hidden tabs, first frames, keyboards, links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Request, expect

from tests.server.browser import DROP, HIDE, card, fill, hand_over, needs_chromium, order
from tests.server.browser import browser as browser
from tests.server.browser import page as page
from tests.server.served import NOBODY, Served

pytestmark = needs_chromium

FOCUSED = "document.activeElement"
IS_COVERED = """
() => {
  const one = document.activeElement, button = document.querySelector("#composer .primary");
  const [place, over] = [one.getBoundingClientRect(), button.getBoundingClientRect()];
  const isUnder = place.bottom > over.top && place.top < over.bottom;
  return [one.id || one.textContent, button.parentElement.contains(one) && isUnder];
}
"""
NOTIFICATIONS = """
window.told = [];
window.Notification = class {
  static permission = "default";
  static requestPermission() { window.asked = true; return Promise.resolve(Notification.permission = "granted"); }
  constructor(title, { body }) { window.told.push([title, body]); }
};
"""


def test_a_hidden_tab_says_when_it_is_done(page: Page, served: Served) -> None:
    page.evaluate(HIDE, True)
    video_id = order(page, "seen by nobody", num_inference_steps=40)
    expect(page).to_have_title("✓ 1 done · Ringlight")
    failing = order(page, "seen by nobody either", num_inference_steps=1000)
    expect(page).to_have_title(re.compile(r"^✓ 1 done · [1-9]\d? % · Ringlight$"))
    served.http.post(f"/v1/videos/{failing}/cancel")
    expect(page).to_have_title("✓ 1 done · ✗ 1 failed · Ringlight")
    page.evaluate(HIDE, False)
    expect(page).to_have_title("Ringlight")
    assert served.get(video_id)["status"] == "completed"


def test_settings_come_with_their_first_frame(page: Page, served: Served, photograph: Path) -> None:
    hand_over(page, DROP, photograph)
    video_id = order(page, "with a picture", num_inference_steps=1000)
    running = card(page, video_id, "in_progress")
    expect(running.locator(".facts")).to_contain_text("begins with a picture")
    running.get_by_role("button", name="Cancel").click()
    page.locator("#drop").get_by_role("button", name="Remove").click()
    plain = card(page, order(page, "without one"), "completed")
    expect(plain.locator(".facts")).not_to_contain_text("picture")
    card(page, video_id, "failed").locator(".open").click()
    failed = page.locator("#opened .card")
    failed.get_by_role("button", name="Use settings").click()
    expect(page.locator("#drop .name")).to_have_text("the picture that it began with")
    expect(page.locator("#drop .shape")).to_contain_text("512 × 600")
    page.locator("[name=num_inference_steps]").fill("2")
    with page.expect_response(lambda answer: answer.request.method == "POST") as answered:
        page.get_by_role("button", name="Make video").click()
    again = answered.value.json()["id"]
    assert (served.folder / "data/videos" / again / "input").read_bytes() == photograph.read_bytes()

    with page.expect_response(lambda answer: answer.request.method == "POST") as answered:
        failed.get_by_role("button", name="Try again").click()
    retried = answered.value.json()
    assert (served.folder / "data/videos" / retried["id"] / "input").read_bytes() == photograph.read_bytes()
    before = served.get(video_id)
    kept = ("prompt", "seed", "size", "num_frames", "num_inference_steps", "guidance_scale", "fps", "pictures")
    assert {name: retried[name] for name in kept} == {name: before[name] for name in kept}
    served.http.post(f"/v1/videos/{retried['id']}/cancel")
    page.get_by_role("link", name="All videos").click()
    card(page, str(plain.get_attribute("data-id")), "completed")
    plain.get_by_role("button", name="Use settings").click()
    expect(page.locator("#drop .chosen")).to_be_hidden()
    expect(page.locator("#prompt")).to_have_value("without one")


def test_many_videos_are_pictures_and_load_no_film(page: Page, served: Served) -> None:
    ids = [served.create(prompt=f"one of many, {number}")["id"] for number in range(19)]
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for video_id in ids:
        served.wait(video_id)
    expect(page.locator("#videos .card")).to_have_count(len(ids))
    for video_id in (ids[0], ids[-1]):
        page.locator(f".card[data-id={video_id}]").scroll_into_view_if_needed()
        expect(page.locator(f".card[data-id={video_id}] .picture")).to_have_js_property("naturalWidth", 64)
    assert [url for url in asked if "variant=video" in url or url.endswith("/report")] == []
    assert page.evaluate("document.documentElement.scrollHeight") < 3000
    assert page.locator("video[src]").count() == 0


def test_a_link_to_a_video_and_the_way_back(page: Page, served: Served) -> None:
    ids = [served.completed(prompt=f"linked, {number}")["id"] for number in range(3)]
    page.goto(f"/#/videos/{ids[0]}")
    shown = page.locator("#opened .card")
    expect(shown).to_have_attribute("data-id", ids[0])
    expect(shown.locator(".tables tfoot")).to_contain_text("Total")
    page.locator(f"#videos .card[data-id={ids[1]}] .open").click()
    expect(shown).to_have_attribute("data-id", ids[1])
    expect(page).to_have_url(re.compile(f"#/videos/{ids[1]}$"))
    page.go_back()
    expect(shown).to_have_attribute("data-id", ids[0])
    page.reload()
    expect(shown).to_have_attribute("data-id", ids[0])
    page.get_by_role("link", name="All videos").click()
    expect(shown).to_have_count(0)
    expect(page.locator("#videos .card")).to_have_count(3)
    assert page.evaluate(f"{FOCUSED}.closest('.card').dataset.id") == ids[0]
    page.goto(f"/#/videos/{NOBODY}")
    expect(page.locator("#trouble")).to_contain_text("no such video")

    page.goto(f"/#/videos/{ids[0]}")
    shown.get_by_role("button", name="Compare").click()
    expect(page.locator("#compare")).to_be_visible()
    page.locator(f"#videos .card[data-id={ids[2]}] .open").click()
    expect(shown).to_have_count(2)
    first, second = (one.bounding_box() for one in shown.all())
    assert first is not None and second is not None
    assert first["y"] == second["y"] and first["x"] + first["width"] <= second["x"]
    expect(page.locator("#opened .tables tfoot")).to_have_count(2)
    page.get_by_role("button", name="Play both").click()
    for one in shown.all():
        expect(one.locator("video")).to_have_js_property("paused", False)
    page.go_back()
    expect(shown).to_have_count(1)


def test_videos_are_found_by_their_words(page: Page, served: Served) -> None:
    for prompt in ("a boat, 0", "a heron, 1"):
        served.completed(prompt=prompt)
    boats = [served.create(prompt=f"a boat, {number}", num_inference_steps=1000)["id"] for number in range(2, 24)]
    for video_id in boats:
        served.http.post(f"/v1/videos/{video_id}/cancel")
    page.reload()
    tiles = page.locator("#videos .card")
    expect(tiles).to_have_count(24)
    page.get_by_role("searchbox").fill("HERON")
    expect(tiles).to_have_count(1)
    expect(tiles.locator(".prompt")).to_have_text("a heron, 1")
    expect(page.get_by_role("button", name="Older videos")).to_be_hidden()
    page.get_by_role("searchbox").fill("nothing like it")
    expect(page.locator("#none-found")).to_be_visible()
    page.get_by_role("searchbox").fill("boat")
    page.get_by_label("Which ones").select_option("Failed")
    expect(tiles).to_have_count(22)
    page.get_by_label("Which ones").select_option("Done")
    expect(tiles).to_have_count(1)
    page.get_by_role("searchbox").fill("")
    page.get_by_label("Which ones").select_option("All")
    expect(tiles).to_have_count(24)
    expect(tiles.first.locator(".prompt")).to_have_text("a boat, 23")


def test_what_is_chosen_is_seen_in_forced_colours(page: Page) -> None:
    fill(page, "")
    ground = "one => getComputedStyle(one.nextElementSibling).backgroundColor"
    page.emulate_media(forced_colors="active")
    for name in ("Landscape", "Square"):
        page.get_by_role("radio", name=name).check()
        page.get_by_role("radio", name="Draft").check()
        chosen = set(page.locator(".segments :checked").evaluate_all(f"all => all.map({ground})"))
        others = set(page.locator(".segments input:not(:checked)").evaluate_all(f"all => all.map({ground})"))
        assert len(chosen) == 1 and not chosen & others


def test_focus_is_never_hidden_and_never_lost(page: Page, served: Served) -> None:
    page.set_viewport_size({"width": 1280, "height": 620})
    fill(page, "")
    page.locator("#prompt").focus()
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(f"{FOCUSED}.matches('.primary')"):
            break
        seen.append(page.evaluate(IS_COVERED))
    assert len(seen) > 15
    assert [name for name, is_covered in seen if is_covered] == []

    ids = [served.completed(prompt=f"to go, {number}")["id"] for number in range(2)]
    running = order(page, "to be cancelled", num_inference_steps=1000)
    cancel = card(page, running, "in_progress").get_by_role("button", name="Cancel")
    cancel.focus()
    page.keyboard.press("Enter")
    card(page, running, "failed")
    expect(page.locator(f".card[data-id={running}] .open")).to_be_focused()
    for video_id in ids:
        made = card(page, video_id, "completed")
        made.get_by_role("button", name="Delete").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        expect(made).to_have_count(0)
        assert page.evaluate(f"{FOCUSED} !== document.body")


def test_a_length_that_is_none_is_told(page: Page) -> None:
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
    for value in ("0", "-3"):
        fill(page, "right")
        frames = page.locator("#num_frames").input_value()
        page.locator("#seconds").fill(value)
        assert page.locator("#num_frames").input_value() == frames
        page.get_by_role("button", name="Make video").click()
        expect(page.locator("#seconds")).to_be_focused()
        expect(page.locator("[data-field=seconds] .problem")).to_have_text("A video is longer than 0 seconds.")
    assert sent == []


def test_what_is_wrong_is_said_in_the_words_of_the_form(page: Page) -> None:
    for field, value, words in (
        ("num_frames", "6", "6 does not go: the model makes 1, 5, 9 and so on. Nearest: 5."),
        ("num_frames", "5.5", "Write a whole number."),
        ("sigmas", "1, x", "Write numbers with commas between them."),
        ("sigmas", "0.5, 1", "1 after 0.5 does not fall by at least 0.001."),
        ("fps", "0", "0 is not between 1 and 240. Nearest: 1."),
        ("num_inference_steps", "0", "0 is not between 1 and 1000. Nearest: 1."),
    ):
        fill(page, "right", fps=24, sigmas="")
        page.locator(f"#composer [name={field}]").fill(value)
        page.get_by_role("button", name="Make video").click()
        expect(page.locator(f"[data-field~={field}] .problem")).to_have_text(words)


def test_files_that_are_no_pictures(page: Page, tmp_path: Path, served: Served) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")
    hand_over(page, DROP, tmp_path / "notes.txt")
    expect(page.locator("#field-problem")).to_contain_text("notes.txt is no picture but text/plain")
    expect(page.locator("#drop .chosen")).to_be_hidden()
    (tmp_path / "broken.jpg").write_text("not a picture either")
    hand_over(page, DROP, tmp_path / "broken.jpg")
    expect(page.locator("#drop .name")).to_have_text("broken.jpg")
    expect(page.locator("#drop img")).to_be_hidden()
    page.locator("#drop").get_by_role("button", name="Remove").click()

    made = served.completed(prompt="« café », 雨", negative_prompt="fog", seed=4711, num_inference_steps=3)
    content = served.http.get(f"/v1/videos/{made['id']}/content").content
    (tmp_path / "film.mp4").write_bytes(content)
    hand_over(page, DROP, tmp_path / "film.mp4")
    expect(page.locator("#prompt")).to_have_value("« café », 雨")
    for name, value in {"negative_prompt": "fog", "seed": "4711", "num_inference_steps": "3", "width": "64"}.items():
        expect(page.locator(f"#composer [name={name}]")).to_have_value(value)
    for position, bare in enumerate((content.replace(b"ringlight", b"elsewhere"), b"", b"\0" * 64, content[:200])):
        page.locator("#prompt").fill("as it was")
        (tmp_path / f"bare{position}.mp4").write_bytes(bare)
        hand_over(page, DROP, tmp_path / f"bare{position}.mp4")
        expect(page.locator("#field-problem")).to_contain_text(f"bare{position}.mp4 carries no settings")
        expect(page.locator("#prompt")).to_have_value("as it was")


def test_several_at_once_have_seeds_of_their_own(page: Page, served: Served) -> None:
    def ordered(**fields: Any) -> list[dict[str, Any]]:
        before = {video["id"] for video in served.http.get("/v1/videos").json()["data"]}
        fill(page, "several", count=3, **fields)
        page.get_by_role("button", name="Make video").click()
        expect(page.locator(".card")).to_have_count(len(before) + 3)
        return [video for video in served.http.get("/v1/videos").json()["data"] if video["id"] not in before]

    assert sorted(video["seed"] for video in ordered(seed=7)) == [7, 8, 9]
    assert len({video["seed"] for video in ordered(seed="")}) == 3
    page.locator("#count").fill("0")
    page.get_by_role("button", name="Make video").click()
    expect(page.locator("[data-field=count] .problem")).to_contain_text("from 1 to 16")


def test_notifications_come_where_they_were_asked_for(page: Page) -> None:
    page.add_init_script(NOTIFICATIONS)
    page.reload()
    button = page.get_by_role("button", name="Tell me when a video is done")
    expect(button).to_have_attribute("aria-pressed", "false")
    page.evaluate(HIDE, True)
    order(page, "told to nobody")
    expect(page).to_have_title(re.compile("1 done"))
    assert page.evaluate("[window.asked, window.told]") == [None, []]
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    order(page, "told to somebody")
    expect(page).to_have_title(re.compile("2 done"))
    assert page.evaluate("window.told") == [["Done", "told to somebody"]]
    page.evaluate(HIDE, False)
    order(page, "seen anyway")
    expect(page.locator("#announcement")).to_have_text("Done: seen anyway")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    assert len(page.evaluate("window.told")) == 1


def test_the_form_is_kept_as_it_was_left(page: Page) -> None:
    order(page, "an earlier prompt")
    fill(page, "half a thou", num_inference_steps=7, negative_prompt="fog")
    page.locator("#own-name").fill("mine")
    page.get_by_role("button", name="Keep", exact=True).click()
    page.reload()
    expect(page.locator("#num_inference_steps")).to_have_value("7")
    expect(page.locator("#prompt")).to_have_value("half a thou")
    page.get_by_text("Earlier prompts").click()
    page.get_by_role("button", name="an earlier prompt").click()
    expect(page.locator("#prompt")).to_have_value("an earlier prompt")
    fill(page, "another", negative_prompt="", seed=5)
    page.locator("#own").select_option("mine")
    expect(page.locator("#num_inference_steps")).to_have_value("7")
    expect(page.locator("#negative_prompt")).to_have_value("fog")
    expect(page.locator("#prompt")).to_have_value("another")
    expect(page.locator("#seed")).to_have_value("5")
    page.get_by_role("button", name="Forget", exact=True).click()
    expect(page.locator("#own")).to_be_disabled()
