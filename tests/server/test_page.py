"""The page at / in a real Chromium, against a real server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.server.browser import (
    CONTRASTS,
    DROP,
    PASTE,
    PHONE,
    card,
    delete_all,
    fill,
    hand_over,
    needs_chromium,
    opened,
    order,
)
from tests.server.browser import browser as browser
from tests.server.browser import page as page
from tests.server.served import Served, serve

pytestmark = needs_chromium

KEY = "the-key-of-the-page-test"
GROUND = "getComputedStyle(document.body).backgroundColor"
HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=2</script> & "quotes"'


def numbers(column: Locator) -> list[float]:
    return [float(text) for text in column.all_inner_texts()]


def test_a_video_that_begins_with_a_dropped_picture(
    page: Page, served: Served, photograph: Path, tmp_path: Path
) -> None:
    hand_over(page, DROP, photograph)
    expect(page.locator("#drop .name")).to_have_text(photograph.name)
    expect(page.locator("#drop .shape")).to_contain_text("512 × 600, will be cut")
    video_id = order(page, "she turns her head", seed=11)
    assert (served.folder / "data/videos" / video_id / "input").read_bytes() == photograph.read_bytes()

    made = card(page, video_id, "completed")
    expect(made.locator(".prompt")).to_have_text("she turns her head")
    expect(made.locator(".facts")).to_contain_text("64 × 64")
    expect(made.locator(".facts")).to_contain_text("seed 11")
    expect(made.locator(".facts")).to_contain_text("begins with a picture")
    screen = made.locator("video")
    expect(screen).to_have_attribute("poster", re.compile("^blob:"))
    expect(screen).not_to_have_attribute("src", re.compile("."))
    with page.expect_response(lambda answer: f"{video_id}/content?variant=video" in answer.url) as played:
        made.get_by_role("button", name="Play").click()
    assert played.value.status == 206  # the browser asks for what it plays
    expect(screen).to_have_js_property("videoWidth", 64)
    assert screen.evaluate("video => video.duration") == pytest.approx(5 / 24, abs=0.05)

    with page.expect_download() as download:
        made.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == f"she-turns-her-head-{video_id[6:14]}.mp4"
    download.value.save_as(tmp_path / "saved.mp4")
    assert (tmp_path / "saved.mp4").read_bytes() == served.http.get(f"/v1/videos/{video_id}/content").content


def test_the_report_adds_up(page: Page, served: Served) -> None:
    made = card(page, order(page, "a report"), "completed")
    stages = made.locator(".tables table").first
    expect(stages.locator("tbody th").last).to_have_text("Other")
    seconds, total = numbers(stages.locator("tbody td:nth-child(3)")), numbers(stages.locator("tfoot td:nth-child(3)"))
    assert sum(seconds) == pytest.approx(total[0], abs=0.0005 * (len(seconds) + 1))
    widths = stages.locator(".bar i").evaluate_all("bars => bars.map(bar => parseFloat(bar.style.width))")
    assert widths == pytest.approx([100 * one / total[0] for one in seconds], abs=0.1 / total[0])
    expect(made.locator(".tables")).to_contain_text("Rank 0 on cpu")


def test_a_paused_video_says_what_it_waits_for_and_keeps_its_progress(page: Page, served: Served) -> None:
    film = order(page, "something long", num_inference_steps=1000)
    running = card(page, film, "in_progress")
    expect(running.locator(".now")).to_contain_text("Denoising · step")
    before = float(running.locator("progress").evaluate("bar => bar.value"))
    clip = served.create(num_inference_steps=600)["id"]
    paused = card(page, film, "in_progress")
    expect(paused.locator(".now")).to_contain_text(
        re.compile(r"Paused: others go first · step \d+ of 1000 · about .* left")
    )
    assert float(paused.locator("progress").evaluate("bar => bar.value")) >= before
    served.http.delete(f"/v1/videos/{clip}")
    expect(paused.locator(".now")).to_contain_text("Denoising · step")
    served.http.delete(f"/v1/videos/{film}")


def test_progress_moves_and_cancel_ends_it(page: Page, served: Served) -> None:
    video_id = order(page, "something long", num_inference_steps=1000)
    running = card(page, video_id, "in_progress")
    expect(running.locator(".now")).to_contain_text(re.compile(r"step \d+ of 1000 · about .* left"))
    bar = running.locator("progress")
    seen = [float(bar.evaluate("bar => bar.value"))]
    for _ in range(3):
        expect(bar).not_to_have_js_property("value", seen[-1])
        seen.append(float(bar.evaluate("bar => bar.value")))
    assert seen == sorted(set(seen)) and seen[-1] < 100
    picture = running.locator(".picture")
    expect(picture).to_have_attribute("src", re.compile("^data:image/jpeg;base64,"))
    assert picture.evaluate("picture => picture.decode().then(() => picture.naturalWidth)") > 0

    running.get_by_role("button", name="Cancel").click()
    ended = card(page, video_id, "failed")
    expect(ended.locator(".badge")).to_have_text("Cancelled")
    expect(page.locator("#announcement")).to_have_text("Cancelled: something long")
    assert served.get(video_id)["error"]["code"] == "cancelled"


def test_what_is_wrong_stands_beside_its_field(page: Page) -> None:
    for field, value, words in (
        ("num_frames", "6", "Nearest: 5"),
        ("width", "65", "Nearest: 64"),
        ("num_inference_steps", "0", "between 1 and 1000"),
        ("seed", "-2", "not between 0"),
        ("seed", "x1", "Write a whole number."),
        ("prompt", " ", "Must not be empty"),
    ):
        fill(page, "right", seed="")
        page.locator(f"#composer [name={field}]").fill(value)
        page.locator(".advanced").evaluate("folded => folded.open = false")
        page.get_by_role("button", name="Make video").click()
        wrong = page.locator(f"#composer [name={field}]")
        expect(wrong).to_be_focused()
        expect(wrong).to_have_attribute("aria-invalid", "true")
        problem = page.locator(f"[data-field~={field}] .problem")
        expect(problem).to_contain_text(words)
        assert wrong.get_attribute("aria-describedby") == problem.get_attribute("id")
        wrong.press("1")
        expect(problem).to_have_count(0)


def test_a_picture_that_is_none_is_told_beside_it(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not a picture")
    hand_over(page, PASTE, tmp_path / "notes.jpg")
    fill(page, "right")
    page.get_by_role("button", name="Make video").click()
    expect(page.locator("[data-field~=input_reference] .problem")).to_contain_text("not a picture")
    page.get_by_role("button", name="Remove").click()
    expect(page.locator("#drop-words")).to_be_visible()
    assert page.locator(".problem:visible").count() == 0


def test_with_the_keyboard_alone(page: Page, served: Served) -> None:
    expect(page.locator("#num_frames")).not_to_have_value("")
    visited = []
    for _ in range(60):
        page.keyboard.press("Tab")
        visited.append(
            page.evaluate(
                """() => {
                  const one = document.activeElement;
                  const outlined = [one, one.nextElementSibling, one.closest(".drop")];
                  const shows = outlined.some((e) => e && getComputedStyle(e).outlineStyle !== "none");
                  return [one.id || one.name || one.textContent.trim(), shows];
                }"""
            )
        )
        if visited[-1][0].startswith("Make video"):
            break
    assert [name for name, shows in visited if not shows] == []
    names = [name for name, _ in visited]
    assert {"prompt", "picture", "shape", "width", "preset", "num_frames", "seed", "die", "theme"} < set(names)

    page.locator("#prompt").focus()
    page.keyboard.type("typed, never clicked")
    for name, value in {"width": "64", "height": "64", "num_frames": "5"}.items():
        page.locator(f"#composer [name={name}]").focus()
        page.keyboard.press("Control+a")
        page.keyboard.type(value)
    with page.expect_response(lambda answer: answer.request.method == "POST") as answered:
        page.keyboard.press("Control+Enter")
    video_id = answered.value.json()["id"]
    made = card(page, video_id, "completed")
    made.get_by_role("button", name="Delete").focus()
    page.keyboard.press("Enter")
    expect(made.get_by_role("button", name="Really delete?")).to_be_focused()
    page.keyboard.press("Enter")
    expect(made).to_have_count(0)
    assert served.http.get(f"/v1/videos/{video_id}").status_code == 404


def test_presets_and_shapes_set_the_numbers(page: Page) -> None:
    fill(page, "")
    fields = {name: page.locator(f"#composer [name={name}]") for name in ("width", "height", "num_frames", "seed")}
    steps, seconds = page.locator("#num_inference_steps"), page.locator("#seconds")
    for shape, size in {"Portrait": ("160", "256"), "Square": ("192", "192"), "Landscape": ("256", "160")}.items():
        page.get_by_role("radio", name=shape).check()
        assert (fields["width"].input_value(), fields["height"].input_value()) == size
    page.get_by_role("radio", name="Draft").check()
    assert (steps.input_value(), fields["num_frames"].input_value(), seconds.input_value()) == ("3", "9", "0.38")
    page.get_by_role("radio", name="Best").check()
    assert (steps.input_value(), fields["num_frames"].input_value()) == ("12", "17")
    seconds.fill("2")
    assert fields["num_frames"].input_value() == "49"
    assert page.locator("[name=preset]:checked").count() == 0
    page.get_by_label("Draw a random seed").click()
    assert fields["seed"].input_value().isdecimal()


def test_a_card_tells_of_a_sampler_where_one_was_named(page: Page, served: Served) -> None:
    named = card(page, served.create(sampler="euler", sigmas=[1, 0.5])["id"], "completed").locator(".facts")
    usual = card(page, served.create()["id"], "completed").locator(".facts")
    expect(named).to_contain_text("sampler euler")
    expect(named).to_contain_text("sigmas 1,0.5")
    expect(usual).not_to_contain_text("sampler")
    expect(usual).not_to_contain_text("null")


def test_a_sampler_brings_its_steps_and_takes_them_away_again(page: Page) -> None:
    fill(page, "")
    names = ("num_inference_steps", "guidance_scale", "flow_shift")
    fields = [page.locator(f"#composer [name={name}]") for name in names]
    page.locator("#sampler").select_option("lightx2v-4step")
    assert [field.input_value() for field in fields] == ["4", "1", "5"]
    page.get_by_role("radio", name="Best").check()
    assert fields[0].input_value() == "4"
    page.locator("#sampler").select_option("euler")
    assert [field.input_value() for field in fields] == ["8", "5", ""]
    page.locator("#sigmas").fill("1, 0.9, 0.5,")
    assert fields[0].input_value() == "3"


def test_the_form_has_the_fields_that_the_server_names(page: Page) -> None:
    strength = {"name": "motion_strength", "type": "number", "title": "Motion strength", "help": "How much moves."}
    mood = {"name": "mood", "type": "string", "title": "Mood", "help": "Such as glad."}

    def more(route: Route) -> None:
        answer = route.fetch()
        models = answer.json()
        model = models["data"][0]
        model["fields"] += [strength | {"minimum": 0, "maximum": 1, "step": None, "default": 0.5, "default_rule": ""}]
        model["fields"] += [mood | {"minimum": None, "maximum": None, "step": None, "default": "", "default_rule": ""}]
        route.fulfill(response=answer, json=models)

    page.route("**/v1/models", more)
    page.reload()
    fill(page, "with more")
    expect(page.locator("#loras")).to_be_hidden()  # this server has none
    for label, value in {"Negative prompt": "", "Frames a second": "24", "Motion strength": "0.5", "Mood": ""}.items():
        expect(page.get_by_label(label, exact=True)).to_have_value(value)
    expect(page.get_by_label("Motion strength")).to_have_attribute("type", "number")
    page.get_by_label("Motion strength").fill("0.75")
    page.get_by_label("Mood").fill("glad")
    with page.expect_request(lambda request: request.method == "POST") as sent:
        page.get_by_role("button", name="Make video").click()
    asked = sent.value.post_data_json
    assert (asked["motion_strength"], asked["mood"], asked["fps"]) == ("0.75", "glad", "24")
    expect(page.locator("[data-field=motion_strength] .problem")).to_have_text("This server knows no such setting.")


def test_what_follows_from_a_video(page: Page, served: Served) -> None:
    video_id = order(page, "the first one", seed=5)
    made = card(page, video_id, "completed")

    def follow(button: str, prompt: str | None = None) -> dict[str, object]:
        with page.expect_response(lambda answer: answer.request.method == "POST") as answered:
            made.get_by_role("button", name=button, exact=True).click()
            if prompt is not None:
                expect(made.locator(".follow .end")).to_be_hidden()  # the model knows no picture to end with
                made.locator(".follow textarea").fill(prompt)
                made.locator(".follow textarea").press("Control+Enter")
        assert answered.value.ok, answered.value.text()
        new = answered.value.json()
        page.locator(f"#videos .card[data-id={new['id']}][data-status=completed]").wait_for()
        return dict(new)

    remix = follow("Remix", "the second one")
    assert (remix["remixed_from_video_id"], remix["prompt"], remix["seed"]) == (video_id, "the second one", 5)
    extension = follow("Extend", "it goes on")
    assert (extension["extended_from_video_id"], extension["prompt"]) == (video_id, "it goes on")
    again = follow("Again")
    assert again["prompt"] == "the first one" and again["seed"] != 5
    expect(card(page, str(remix["id"])).locator(".origin")).to_contain_text("remix")

    made.get_by_role("button", name="Use settings").click()
    expect(page.locator("#prompt")).to_have_value("the first one")
    expect(page.locator("#seed")).to_have_value("5")


def test_an_order_whose_answer_was_lost_is_made_once(page: Page, served: Served) -> None:
    def lose(route: Route) -> None:
        route.fetch()  # the server has it, and nobody hears of that
        route.abort()

    page.route("**/v1/videos", lose, times=1)
    fill(page, "only once")
    page.get_by_role("button", name="Make video").click()
    expect(page.locator("#problem")).to_contain_text("does not answer")
    page.get_by_role("button", name="Make video").click()
    page.locator("#videos .card", has_text="only once").wait_for()
    listed = served.http.get("/v1/videos", params={"limit": 100}).json()["data"]
    assert [video["prompt"] for video in listed].count("only once") == 1


def test_text_stays_text(page: Page) -> None:
    made = card(page, order(page, HOSTILE), "completed")
    assert made.locator(".prompt").inner_text() == HOSTILE
    assert made.locator(".prompt > *").count() == 0
    made.get_by_role("button", name="Remix").click()
    assert made.locator(".follow textarea").input_value() == HOSTILE
    assert page.evaluate("window.pwned") is None


def test_a_phone_needs_no_scrolling_sideways(browser: Browser, served: Served, photograph: Path) -> None:
    with opened(browser, served.url, **PHONE) as page:
        hand_over(page, DROP, photograph)
        made = card(page, order(page, "w" * 300), "completed")
        expect(made.locator(".tables table").first).to_be_visible()
        made.get_by_role("button", name="Extend").click()
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["viewport"]["width"]
        heights = page.locator("button:visible").evaluate_all("all => all.map(one => one.offsetHeight)")
        assert len(heights) > 8 and min(heights) >= 44


def test_light_and_dark_are_both_readable(page: Page) -> None:
    card(page, order(page, "a lamp in the window"), "completed").locator("tfoot").wait_for()
    order(page, "a lamp that goes on and on", num_inference_steps=1000)
    page.locator("#queue .card").wait_for()
    fill(page, "", num_frames=6)
    page.get_by_role("button", name="Make video").click()
    page.locator("#field-problem").wait_for()
    grounds = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 60
        assert [(text, ratio) for text, ratio in contrasts if ratio < 4.5] == []
        grounds[scheme] = page.evaluate(GROUND)
    assert grounds["light"] != grounds["dark"]
    page.locator("#queue .card").get_by_role("button", name="Cancel").click()
    for scheme in ("light", "dark"):  # whatever the system's is, which is dark
        page.locator("#theme").click()
        assert page.evaluate(GROUND) == grounds[scheme]
        page.reload()
        assert page.evaluate(GROUND) == grounds[scheme]


def test_a_queue_longer_than_is_drawn_and_older_videos(page: Page, served: Served) -> None:
    ids = [served.create(num_inference_steps=1000, prompt=f"number {position}")["id"] for position in range(24)]
    try:
        page.reload()
        running = card(page, ids[0], "in_progress")  # the oldest one, beyond the first page of the list
        expect(running.locator(".now")).to_contain_text("step")
        queue = page.locator("#queue .card")
        assert queue.evaluate_all("all => all.map(one => one.dataset.id)") == ids[:21]  # and twenty that wait
        expect(page.locator("#others")).to_contain_text("3 more wait")
        ids.append(order(page, "number 24, ordered here", num_inference_steps=1000, num_frames=9))
        expect(page.locator(f"#queue .card[data-id={ids[24]}]")).to_be_in_viewport()  # behind those that are not drawn
        expect(page.locator("#others")).to_contain_text("3 more wait")
        page.get_by_role("button", name="Show more").click()
        assert queue.evaluate_all("all => all.map(one => one.dataset.id)") == ids
        expect(queue.nth(21)).to_be_focused()
        expect(page.locator("#others")).to_be_hidden()
        for video_id in ids:
            served.http.post(f"/v1/videos/{video_id}/cancel")
        expect(page.locator("#videos .card")).to_have_count(25)
        page.reload()
        expect(page.locator("#videos .card")).to_have_count(25)  # older ones come by themselves
        newest_first = page.locator("#videos .card").evaluate_all("all => all.map(one => one.dataset.id)")
        assert newest_first == ids[::-1]
        expect(page.get_by_role("button", name="Older videos")).to_be_hidden()
        served.http.delete(f"/v1/videos/{ids[24]}")
        expect(page.locator("#videos .card")).to_have_count(24)
    finally:
        delete_all(served)


def test_a_server_with_keys(browser: Browser, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"alice:{KEY}\n")
    (tmp_path / "keys").chmod(0o600)
    flags = ("--no-warm-up", "--api-key-file", tmp_path / "keys", "--no-embed-settings")
    with serve(tmp_path, tiny, *flags) as server, opened(browser, server.url) as page:
        lock = page.locator("#lock")
        expect(lock).to_be_visible()
        for _ in range(3):  # a browser closes a dialog at the second one, whatever its page says
            page.keyboard.press("Escape")
            expect(lock).to_be_visible()
        for wrong, words in {"wrong-key-0123456789": "key", "with space": "without spaces"}.items():
            page.locator("#key").fill(wrong)
            page.keyboard.press("Enter")
            expect(lock.locator(".problem")).to_contain_text(words)
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        expect(lock).to_be_hidden()
        made = card(page, order(page, "behind a door"), "completed")
        page.route("**/content?*signature=*", lambda route: route.fulfill(status=403), times=1)  # as if it were over
        with page.expect_response(lambda answer: "signature" in answer.url and answer.status == 206) as played:
            made.get_by_role("button", name="Play").click()
        assert played.value.request.headers["range"].startswith("bytes=")  # the browser asks for what it plays
        assert "authorization" not in played.value.request.headers and KEY not in played.value.url
        expect(made.locator("video")).to_have_js_property("videoWidth", 64)
        expect(made.locator(".about > .problem")).to_be_hidden()
        with page.expect_download() as download:
            made.get_by_role("button", name="Download").click()
        assert download.value.suggested_filename.startswith("behind-a-door-")
        download.value.save_as(tmp_path / "bare.mp4")
        content = (tmp_path / "bare.mp4").read_bytes()
        assert content == server.http.get(played.value.url).content and b"behind a door" not in content
        hand_over(page, DROP, tmp_path / "bare.mp4")
        expect(page.locator("#field-problem")).to_contain_text("bare.mp4 carries no settings")
        page.reload()
        card(page, str(made.get_attribute("data-id")))
        expect(lock).to_be_hidden()
        page.get_by_role("button", name="Forget key").click()
        expect(lock).to_be_visible()
        assert KEY not in page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#state")).to_have_text("Ready")
        server.stop()
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        expect(page.locator("#trouble")).to_contain_text("does not answer")
        expect(page.locator("#state")).to_contain_text("does not answer", timeout=15_000)  # not at the next look
        expect(page.locator("#state")).to_be_in_viewport()
