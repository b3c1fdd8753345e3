#!/usr/bin/env python3
"""Make docs/images/page.png, page_dark.png and page_phone.png: the page of a real server that makes real videos.

Needs Chromium at /usr/bin/chromium and Playwright (`pip install -e .[dev]`). Its weights are the demo's, random ones.
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
import matplotlib
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
CHROMIUM = "/usr/bin/chromium"
RINGLIGHT = Path(sys.executable).with_name("ringlight")
PHOTOGRAPH = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"

FINISHED = {"prompt": "an old lighthouse keeper opens the door, cinematic lighting, slow push in", "seed": 7}
RUNNING = {"prompt": "fog rolls over the harbour while the first boats leave, wide shot, slow pan to the left"}
WAITING = {"prompt": "the same harbour at night, lanterns on the water"}
LONG = {"num_inference_steps": 900, "num_frames": 33, "seed": 11}

DESKTOP: dict[str, Any] = {"viewport": {"width": 1440, "height": 1440}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of a server over two ranks, which ends with the block."""
    checkpoint = folder / "checkpoint"
    subprocess.run([RINGLIGHT, "demo-checkpoint", checkpoint, "--size", "tiny"], check=True)
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
    """One video that is done, one that is being made, one that waits."""
    with PHOTOGRAPH.open("rb") as picture:
        made = httpx.post(f"{url}/v1/videos", data=FINISHED, files={"input_reference": picture}).json()
    while httpx.get(f"{url}/v1/videos/{made['id']}").json()["status"] != "completed":
        time.sleep(0.2)
    for fields in (RUNNING, WAITING):
        httpx.post(f"{url}/v1/videos", json=fields | LONG).raise_for_status()


def open_page(browser: Browser, url: str, **options: Any) -> Page:
    """The page with a report unfolded and a preview of what is being made."""
    page = browser.new_context(base_url=url, **options).new_page()
    page.goto("/")
    page.locator("#videos summary").first.click()
    page.locator(".tables tfoot").first.wait_for()
    page.locator("#queue .picture").first.wait_for()
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
            page.set_input_files("#picture", PHOTOGRAPH)
            page.locator("#prompt").fill(str(FINISHED["prompt"]))
            page.locator("#seed").fill(str(FINISHED["seed"]))
            page.locator("#seed").blur()
            save(page, name)
        page = open_page(browser, url, color_scheme="dark", device_scale_factor=2, **PHONE)
        page.locator("#composer").evaluate("form => form.hidden = true")  # what is under it, on the first screen
        save(page, "page_phone.png")
        browser.close()


if __name__ == "__main__":
    main()
