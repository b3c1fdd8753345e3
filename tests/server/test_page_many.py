"""The page before hundreds of videos: what it holds and asks for stays bounded, and each can be reached."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from playwright.sync_api import Browser, Page, Response, expect

from tests.server.browser import browser as browser
from tests.server.browser import needs_chromium, opened
from tests.server.filled import FAIL_EVERY, fill, prompt_of
from tests.server.served import LONG, Served

pytestmark = needs_chromium

COUNT = 300
MOST_TILES = 80  # three screens of 1440 x 1000, and a row or two
MOST_ELEMENTS = 6000  # of which a tile has some 70
WAITING = 450
MOST_SEEN = 200  # videos of which a look at the list hears, once it knows how many there are
NEAR = "all => all.map(one => [one.dataset.id, one.getBoundingClientRect().top])"
# Which cards of waiting videos are drawn anew from here on, other than in what is said of their time.
MARK = """
() => {
  window.drawn = [];
  const isTime = (one) => one.parentElement?.closest(".live, time") || one.matches?.(".live, time");
  new MutationObserver((all) => {
    for (const { target } of all) {
      const one = target.nodeType === 3 ? target.parentElement : target, card = one.closest("[data-status=queued]");
      if (card && !isTime(one)) window.drawn.push(one.outerHTML);
    }
  }).observe(document.querySelector("#queue"), { subtree: true, childList: true, characterData: true });
}
"""


class Many(NamedTuple):
    """A server with many videos, the oldest first."""

    url: str
    ids: list[str]


@pytest.fixture(scope="module")
def many(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Many]:
    folder = tmp_path_factory.mktemp("many")
    ids = fill(folder / "data", COUNT)
    server = Served(folder, tiny, "--no-warm-up", "--drain-timeout", 0)
    try:
        server.wait_until_listening()
        yield Many(server.url, ids)
    finally:
        server.stop(signal.SIGTERM)


def sizes(page: Page) -> tuple[int, int]:
    """Tiles, and all elements."""
    tiles, elements = page.evaluate(
        "[document.querySelectorAll('#videos .card').length, document.querySelectorAll('*').length]"
    )
    return int(tiles), int(elements)


def scroll(page: Page) -> None:
    """A screen further, and what that brings."""
    page.evaluate("scrollBy(0, innerHeight)")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_all_are_reached_by_scrolling_and_few_are_there_at_once(browser: Browser, many: Many) -> None:
    with opened(browser, many.url) as page:
        page.goto("about:blank")  # then all is heard that the page asks for
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto("/")
        page.locator("#videos .card").first.wait_for()
        seen: dict[str, None] = {}
        for _ in range(200):
            near = page.locator("#videos .card").evaluate_all(NEAR)
            tops = [top for _, top in near]
            assert tops == sorted(tops)  # the keyboard goes through them as they stand
            seen |= dict.fromkeys(video_id for video_id, _ in near)
            tiles, elements = sizes(page)
            assert tiles <= MOST_TILES and elements <= MOST_ELEMENTS
            if len(seen) == COUNT:
                break
            scroll(page)
        assert list(seen) == many.ids[::-1]
        expect(page.get_by_role("button", name="Older videos")).to_be_hidden()
        last = page.locator(f"#videos .card[data-id={many.ids[0]}]")
        expect(last.locator(".prompt")).to_have_text(prompt_of(0))
        assert last.get_attribute("aria-posinset") == last.get_attribute("aria-setsize") == str(COUNT)
        last.scroll_into_view_if_needed()
        expect(last.locator(".picture")).to_have_js_property("naturalWidth", 64)
        older = [url for url in asked if "after=" in url]
        assert len(older) == len(set(older)) == (COUNT - 20 + 99) // 100  # each page once
        assert len([url for url in asked if "variant=thumbnail" in url]) <= COUNT

        # One is opened from down there, and left again: it is where it was.
        place = last.bounding_box()
        last.locator(".open").click()
        expect(page.locator("#opened .card")).to_have_attribute("data-id", many.ids[0])
        expect(page.locator("#opened .card")).to_be_in_viewport()
        page.get_by_role("link", name="All videos").click()
        expect(last.locator(".open")).to_be_focused()
        assert last.bounding_box() == place
        page.evaluate("scrollTo(0, 0)")  # the one with the focus stays, and the keyboard goes on from there
        expect(page.locator(f"#videos .card[data-id={many.ids[-1]}]")).to_be_in_viewport()
        expect(last.locator(".open")).to_be_focused()
        page.keyboard.press("Shift+Tab")
        assert page.evaluate("document.activeElement.closest('#videos > .card') !== null")


def test_the_keyboard_goes_on_beyond_what_is_there(browser: Browser, many: Many) -> None:
    with opened(browser, many.url) as page:
        page.locator("#videos .card .open").first.focus()
        for place in range(2, 62):
            page.keyboard.press("Tab")
            if place % 10 == 1:  # once the tiles have come after the focus
                tile = page.locator(f"#videos .card[aria-posinset='{place}']")
                expect(tile.locator(".open")).to_be_focused()
                expect(tile).to_be_in_viewport(ratio=0.9)
                assert sizes(page)[0] <= MOST_TILES


def test_one_of_all_is_found_by_its_words(browser: Browser, many: Many) -> None:
    with opened(browser, many.url) as page:
        tiles = page.locator("#videos .card")
        page.get_by_role("searchbox").fill("heron 0001")
        expect(tiles).to_have_count(1)
        expect(tiles).to_have_attribute("data-id", many.ids[1])
        page.get_by_role("searchbox").fill("whale")
        expect(tiles.first.locator(".prompt")).to_have_text(prompt_of(COUNT - 2))
        found: set[str] = set()
        for _ in range(100):
            found |= set(tiles.evaluate_all("all => all.map(one => one.dataset.id)"))
            assert sizes(page)[0] <= MOST_TILES
            if len(found) == COUNT // 5:
                break
            scroll(page)
        assert found == {many.ids[number] for number in range(3, COUNT, 5)}
        page.get_by_role("searchbox").fill("")
        page.get_by_label("Which ones").select_option("Failed")
        expect(tiles).to_have_count(COUNT // FAIL_EVERY)
        expect(tiles.first.locator(".failure")).to_have_text("there was no room for it")
        heights = tiles.evaluate_all("all => all.map(one => one.offsetHeight)")
        page.get_by_label("Which ones").select_option("All")
        expect(tiles.first).to_have_attribute("data-id", re.compile(f"{many.ids[-1]}|{many.ids[-2]}"))
        assert set(heights) == set(tiles.evaluate_all("all => all.map(one => one.offsetHeight)"))


def test_of_hundreds_that_wait_the_first_are_drawn_and_each_is_found(browser: Browser, many: Many) -> None:
    wanted = [
        LONG | {"size": "128x128", "num_frames": 33, "prompt": f"a kite over the dunes, number {number:04d}"}
        for number in range(WAITING)
    ]
    with httpx.Client(base_url=many.url, timeout=60.0, trust_env=False) as http:
        batch = http.post("/v1/batches", json={"name": "kites", "requests": wanted}).raise_for_status().json()["id"]
        try:
            with opened(browser, many.url) as page:
                looks: list[list[str]] = [[]]  # ids that the list was heard to have, of each look at it

                def hear(answer: Response) -> None:
                    if "/v1/videos?" in answer.url:
                        looks[-1] += [video["id"] for video in answer.json()["data"]]
                        if "status=in_progress" in answer.url:  # it is asked for last
                            looks.append([])

                page.on("response", hear)
                page.locator("#queue .card[data-status=in_progress]").wait_for()
                others = page.locator("#others-words")
                expect(others).to_have_text(f"{WAITING - 1 - 20} more wait")
                queue = page.locator("#queue .card")
                expect(queue).to_have_count(1 + 20)
                prompts = queue.locator(".prompt").all_inner_texts()
                assert prompts == [each["prompt"] for each in wanted[:21]]
                assert sizes(page)[1] <= MOST_ELEMENTS
                expect(page.locator("#videos .card").first).to_have_attribute("data-id", many.ids[-1])

                page.evaluate(MARK)
                for _ in range(2):  # what is seen at a look is drawn before the next one
                    with page.expect_response(lambda answer: "status=in_progress" in answer.url):
                        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
                assert page.evaluate("window.drawn") == []
                assert max(len(look) for look in looks[1:]) <= MOST_SEEN

                page.get_by_role("button", name="Show more").click()
                expect(queue).to_have_count(1 + 70)
                expect(others).to_have_text(f"{WAITING - 1 - 70} more wait")
                page.get_by_role("searchbox").fill("kite 0444")
                expect(queue).to_have_count(1 + 1)
                expect(queue.last.locator(".prompt")).to_have_text(wanted[444]["prompt"])
                queue.last.get_by_role("button", name="Cancel").click()
                expect(page.locator("#videos .card")).to_have_count(1)
                expect(page.locator("#none-found")).to_be_hidden()
                page.get_by_role("searchbox").fill("")
                expect(others).to_have_text(f"{WAITING - 2 - 70} more wait")
        finally:
            http.delete(f"/v1/batches/{batch}")
