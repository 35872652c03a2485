"""A real browser for the tests: Debian's Chromium, driven from here. Nothing is downloaded for it."""

from __future__ import annotations

import base64
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

BROWSERS, DRIVER = ("chromium", "chromium-browser", "google-chrome"), "chromedriver"
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-audio-output")
NEEDED = "EP_TEST_BROWSER"  # set where a browser was installed for the tests: then none is a failure


def start() -> Any:
    """A running browser; without one the test is skipped, or fails where one is needed."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which(DRIVER)
    if program is None or driver is None:
        message = (
            "NO BROWSER: it would have proved that the page of `ep explain` works. Install chromium, chromium-driver."
        )
        if os.environ.get(NEEDED):
            pytest.fail(message)
        pytest.skip(message)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


def look_like(browser: Any, width: int, dark: bool = False) -> None:
    """A window of that width (CSS pixels); a narrow one is a phone's."""
    phone = width < 600
    size = {"width": width, "height": 844 if phone else 900, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def photograph(browser: Any, path: Path) -> None:
    """The whole page as a PNG."""
    size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    path.write_bytes(base64.b64decode(shot["data"]))
