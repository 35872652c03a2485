"""A real browser for the tests: Debian's Chromium, driven from here. Nothing is downloaded for it."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS, DRIVER = ("chromium", "chromium-browser", "google-chrome"), "chromedriver"
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-audio-output")
By = "css selector"
PATIENCE = 60  # s
NEEDED = "EP_TEST_BROWSER"  # set where a browser was installed for the tests: then none is a failure


def start() -> Any:
    """A running browser; without one the test is skipped, or fails where one is needed."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which(DRIVER)
    if program is None or driver is None:
        message = (
            "NO BROWSER: it would have proved that the pages of `ep explain` and `ep serve` work. "
            "Install chromium, chromium-driver."
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


@contextmanager
def running() -> Iterator[Any]:
    """A browser while the block runs."""
    browser = start()
    browser.set_script_timeout(PATIENCE)
    try:
        yield browser
    finally:
        browser.quit()


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


def find(page: Any, selector: str) -> Any:
    """The first element of a selector."""
    return page.find_element(By, selector)


def press(page: Any, *keys: str, on: str = "body") -> None:
    """Press keys in an element."""
    for key in keys:
        find(page, on).send_keys(key)


def until(page: Any, true: Callable[[Any], Any]) -> Any:
    """Wait until something holds."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(page, PATIENCE, 0.05).until(true)


def seek(page: Any, second: float) -> None:
    """Move the clip of a page to a second."""
    script = "const s = arguments[0]; s.value = arguments[1]; s.dispatchEvent(new Event('input'))"
    page.execute_script(script, find(page, "#scrub"), second)


def drawn(page: Any, rows: str, *attributes: str) -> list[list[int]]:
    """The numbers that the overlay's kept rectangles have."""
    script = "return [...document.querySelectorAll(arguments[0])].map(r => arguments[1].map(a => +r.getAttribute(a)))"
    found: list[list[int]] = page.execute_script(script, f"{rows} .kept", attributes)
    return found


def shown_cells(page: Any) -> set[tuple[int, int]]:
    """Rows and columns that are drawn as kept."""
    return {(row, column) for row, column in drawn(page, "#cells", "y", "x")}


def shown_sound(page: Any) -> set[int]:
    """Audio tokens that are drawn as kept."""
    return {first + i for first, width in drawn(page, "#columns", "x", "width") for i in range(width)}


def barriers(page: Any) -> list[str]:
    """What axe-core finds that keeps people from using a page."""
    from axe_core_python.selenium import Axe

    found = Axe().run(page)["violations"]
    return [f"{one['id']}: {node['html'][:200]}" for one in found for node in one["nodes"]]
