#!/usr/bin/env python3
"""Make docs/images/page.png, page_dark.png and page_phone.png: the page of a real server that makes real videos.

Needs Chromium at /usr/bin/chromium and Playwright (`pip install -e .[dev]`). The checkpoint is the trained demo's.
Run as `python scripts/screenshots.py`; it takes a minute.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
CHROMIUM = "/usr/bin/chromium"
RINGLIGHT = Path(sys.executable).with_name("ringlight")

FINISHED = [
    {"prompt": "a red ball rolls to the right over green ground", "seed": 7},
    {"prompt": "a purple box rolls to the right over snow", "seed": 7},
    {"prompt": "an orange ball falls over sand", "seed": 7},
    {"prompt": "a blue box rises over snow", "seed": 7},
]
RUNNING = {"prompt": "a yellow box rises over snow"}
WAITING = {"prompt": "a blue cone rolls to the left at night"}
LONG = {"num_inference_steps": 900, "seed": 11}

DESKTOP: dict[str, Any] = {"viewport": {"width": 1440, "height": 1080}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of a server over two ranks, which ends with the block."""
    checkpoint = folder / "checkpoint"
    subprocess.run([RINGLIGHT, "demo-checkpoint", checkpoint], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [RINGLIGHT, "serve", "--model-path", checkpoint, "--port", port, "--data-dir", folder / "data"]
    command += ["--num-gpus", 2, "--sp-degree", 2, "--ulysses-degree", 1, "--ring-degree", 2]
    command += ["--num-threads", 1, "--preview-seconds", 0.5, "--drain-timeout", 0]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            until_ready(url, process)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until videos are being made."""
    while process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(0.2)
    raise SystemExit(f"the server ended with {process.returncode}")


def fill_server(url: str) -> None:
    """Some videos that are done, one that is being made, one that waits."""
    for fields in FINISHED:
        made = httpx.post(f"{url}/v1/videos", json=fields).json()
        while httpx.get(f"{url}/v1/videos/{made['id']}").json()["status"] != "completed":
            time.sleep(0.2)
    for fields in (RUNNING, WAITING):
        httpx.post(f"{url}/v1/videos", json=fields | LONG).raise_for_status()


def open_page(browser: Browser, url: str, **options: Any) -> Page:
    """The page with pictures of what is done, and a preview of what is being made."""
    page = browser.new_context(base_url=url, **options).new_page()
    page.goto("/")
    page.locator("#queue .picture").first.wait_for()
    page.locator("#videos .card").last.scroll_into_view_if_needed()  # which loads its picture
    page.locator("#videos .picture").first.wait_for()
    return page


def save(page: Page, name: str) -> None:
    """Write what is seen, in 256 colours: noise in all of them would be megabytes."""
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=IMAGES / name)
    page.context.close()
    picture = Image.open(IMAGES / name).convert("RGB").quantize(256, kmeans=4, dither=Image.Dither.NONE)
    picture.save(IMAGES / name, optimize=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as url, sync_playwright() as playwright:
        fill_server(url)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for name, scheme in {"page.png": "light", "page_dark.png": "dark"}.items():
            page = open_page(browser, url, color_scheme=scheme, **DESKTOP)
            page.locator("#prompt").fill(str(WAITING["prompt"]))
            page.locator("#prompt").blur()
            save(page, name)
        page = open_page(browser, url, color_scheme="dark", device_scale_factor=2, **PHONE)
        page.locator("#composer").evaluate("form => form.hidden = true")  # what is under it, on the first screen
        save(page, "page_phone.png")
        browser.close()


if __name__ == "__main__":
    main()
