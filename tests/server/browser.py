"""A real Chromium for the tests of the page, and what they look at in it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright

from tests.server.served import Served

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_MS = 60_000
expect.set_options(timeout=WAIT_MS)
DESKTOP: dict[str, Any] = {"viewport": {"width": 1440, "height": 1000}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}

DROP = """
([encoded, name, type]) => {
  const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type }));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    document.querySelector("#drop").dispatchEvent(
      new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
  }
}
"""

PASTE = """
([encoded, name, type]) => {
  const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([bytes], name, { type }));
  document.querySelector("#prompt").dispatchEvent(
    new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
}
"""

# Of every text that is seen: its words, and the contrast of its colour with what lies under it (WCAG 2.2, 1.4.3).
CONTRASTS = """
() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], under) => [r, g, b].map((one, i) => one * a + under[i] * (1 - a));
  const ground = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) layers.push(parse(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const linear = (one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4;
  const luminance = (colour) => {
    const [r, g, b] = colour.map((one) => linear(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const wordsOf = (element, isField) => {
    if (isField) return element.value || element.placeholder;
    return [...element.childNodes].filter((one) => one.nodeType === 3).map((one) => one.data).join("").trim();
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const isField = element.matches("input:not([type=radio], [type=file], [type=checkbox]), textarea, select");
    const words = wordsOf(element, isField);
    if (!words || !element.checkVisibility({ visibilityProperty: true })) continue;
    if (element.closest(".unseen, .skip, svg, noscript")) continue;
    const under = ground(element);
    const style = getComputedStyle(element, isField && !element.value ? "::placeholder" : null);
    const [a, b] = [luminance(over(parse(style.color), under)), luminance(under)].sort((x, y) => y - x);
    found.push([words.slice(0, 40), (a + 0.05) / (b + 0.05)]);
  }
  return found;
}
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a profile of its own, which ends with the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


HIDE = """
(isHidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => isHidden });
  document.dispatchEvent(new Event("visibilitychange"));
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """With no videos, each of which a browser would draw for every test."""
    delete_all(served)
    with opened(browser, served.url) as page:
        yield page


def delete_all(served: Served) -> None:
    """Leave the server without videos."""
    while videos := served.http.get("/v1/videos", params={"limit": 100}).json()["data"]:
        for video in videos:
            served.http.delete(f"/v1/videos/{video['id']}")


needs_chromium = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no Chromium at {CHROMIUM}: install the package"),
]
"""The marks of a module whose tests look at the page."""


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """The page, once it knows the server. Scripts that fail and anything the policy forbids are errors of the test."""
    context = browser.new_context(base_url=url, reduced_motion="reduce", **({**DESKTOP, **options}))
    context.set_default_timeout(WAIT_MS)
    complaints: list[str] = []
    page = context.new_page()

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error" and "status of" not in message.text and "ERR_" not in message.text:
            complaints.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        page.goto("/")
        yield page
        assert not complaints
    finally:
        context.close()


def hand_over(page: Page, script: str, picture: Path) -> None:
    """Drop (DROP) or paste (PASTE) a file: a picture, unless its name says otherwise."""
    kind = {".txt": "text/plain", ".mp4": "video/mp4"}.get(picture.suffix, "image/jpeg")
    page.evaluate(script, [base64.b64encode(picture.read_bytes()).decode(), picture.name, kind])


def fill(page: Page, prompt: str, **fields: object) -> None:
    """Write into the form; fields are named as in the API. The shortest video is asked for, unless they say more."""
    expect(page.locator("#num_frames")).not_to_have_value("")  # the server's defaults are there
    page.locator(".advanced").evaluate("folded => folded.open = true")
    small = {"width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2}
    for name, value in (small | fields).items():
        page.locator(f"#composer [name={name}]").fill(str(value))
    page.locator("#prompt").fill(prompt)


def order(page: Page, prompt: str, **fields: object) -> str:
    """Fill in the form and press its button; the id of the new video."""
    fill(page, prompt, **fields)
    with page.expect_response(lambda answer: answer.request.method == "POST") as answered:
        page.get_by_role("button", name="Make video").click()
    assert answered.value.ok, answered.value.text()
    return str(answered.value.json()["id"])


def card(page: Page, video_id: str, status: str = "") -> Locator:
    """A video on the page, once it has this status; one that is completed is opened."""
    found = page.locator(f".card[data-id={video_id}]" + (f"[data-status={status}]" if status else ""))
    found.wait_for()
    link = found.locator(".open")
    if status == "completed" and link.is_visible():
        link.click()
        expect(page.locator(f"#opened .card[data-id={video_id}]")).to_be_visible()
    return found
