"""What axe-core finds on the page, in the states that people see: no violation, of any impact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.server.browser import PHONE, card, delete_all, fill, needs_chromium, opened
from tests.server.browser import browser as browser
from tests.server.served import LONG, Served

pytestmark = needs_chromium

AXE = Axe()
ALL: dict[str, Any] = {"resultTypes": ["violations"]}
COLOURS: dict[str, Any] = ALL | {"runOnly": ["color-contrast"]}
REFUSED = {"error": {"message": "no key", "type": "authentication_error", "param": None, "code": "unauthorized"}}


class Looks:
    """Whatever is found at each look, to be told at once: of all rules in the light, of colours in the dark too."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.found: list[str] = []

    def look(self, state: str, options: dict[str, Any] = ALL) -> None:
        results = AXE.run(self.page, options=options)
        if results.violations_count:
            self.found.append(f"{state}: {results.generate_report()}")

    def look_at_both(self, state: str) -> None:
        self.look(state)
        self.page.emulate_media(color_scheme="dark")
        self.look(f"{state}, in the dark", COLOURS)
        self.page.emulate_media(color_scheme="light")


@contextmanager
def looks(browser: Browser, url: str, **options: Any) -> Iterator[Looks]:
    """The page, on which nothing was found at the end."""
    with opened(browser, url, **options) as page:
        looks = Looks(page)
        yield looks
        assert not looks.found, "\n".join(looks.found)


def test_axe_finds_nothing(browser: Browser, served: Served) -> None:
    delete_all(served)
    with looks(browser, served.url) as walk:
        page = walk.page
        fill(page, "")
        walk.look("empty")  # no videos yet, and all of the form

        page.get_by_role("button", name="Make video").click()
        page.locator("#field-problem").wait_for()
        walk.look_at_both("problems")

        first, second = (served.completed(prompt=f"to be looked at, {number}")["id"] for number in range(2))
        failed = served.create(**LONG)["id"]
        served.http.post(f"/v1/videos/{failed}/cancel")
        running = [served.create(**LONG | {"prompt": f"made in turn, {number}"})["id"] for number in range(22)]
        page.reload()
        card(page, running[0], "in_progress")
        expect(page.locator("#others")).to_be_visible()
        expect(page.locator("#videos .card")).to_have_count(3)
        walk.look_at_both("running, waiting, over")
        for video_id in running:
            served.http.delete(f"/v1/videos/{video_id}")

        made = card(page, first, "completed")
        made.locator("tfoot").wait_for()
        walk.look("looked at")
        for name in ("Remix", "Extend"):
            made.get_by_role("button", name=name, exact=True).click()
            walk.look(name)
        made.get_by_role("button", name="Play").click()
        made.get_by_role("button", name="Compare").click()
        page.locator(f"#videos .card[data-id={second}] .open").click()
        expect(page.locator("#opened tfoot")).to_have_count(2)
        walk.look_at_both("side by side")


def test_axe_finds_nothing_on_a_phone(browser: Browser, served: Served) -> None:
    made = served.completed()["id"]
    with looks(browser, served.url, **PHONE) as walk:
        page = walk.page
        page.locator(f".card[data-id={made}]").wait_for()
        walk.look("phone, all videos")
        card(page, made, "completed").locator("tfoot").wait_for()
        walk.look("phone, looked at")


def test_axe_finds_nothing_where_a_key_is_asked_for(browser: Browser, served: Served) -> None:
    with looks(browser, served.url) as walk:
        page = walk.page
        page.route("**/v1/models", lambda route: route.fulfill(status=401, json=REFUSED))
        page.reload()
        expect(page.locator("#lock")).to_be_visible()
        walk.look("key")
        page.locator("#key").fill("wrong-key-0123456789")
        page.keyboard.press("Enter")
        expect(page.locator("#lock .problem")).to_be_visible()
        walk.look_at_both("wrong key")
