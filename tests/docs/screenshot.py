"""The picture of the page of `ep serve` in the README: `python -m tests.docs.screenshot` renews docs/serve.png."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

import echoingpixels as ep
from echoingpixels.checkpoints.loading import ASSETS
from echoingpixels.options import AskOptions
from tests.support import browser as browsers
from tests.support.browser import By, find, press, until
from tests.support.served import served

QUESTION = "Which object is visible when the bell plays?"
PICTURE = Path(__file__).parents[2] / "docs/serve.png"
ENTER, RIGHT = "\ue007", "\ue014"


def main(path: Path = PICTURE, width: int = 1280, dark: bool = False) -> None:
    """Ask the bundled model about the bundled clip on the page, and write its picture."""
    with tempfile.TemporaryDirectory() as folder, browsers.running() as page:
        browsers.look_like(page, width, dark)
        with served(Path(folder), lambda: ep.load("tiny"), model="tiny", ask=AskOptions(keep=0.1)) as live:
            page.get(live.url)
            until(page, lambda _: find(page, "#about").text == "tiny")
            find(page, "#file").send_keys(str(ASSETS / "demo.mp4"))
            until(page, lambda _: find(page, "#talk").is_displayed())
            press(page, QUESTION + ENTER, on="#question")
            until(page, lambda _: page.find_elements(By, ".answer dl"))
            page.find_elements(By, ".answer .row button")[0].click()
            press(page, RIGHT, RIGHT)
            browsers.photograph(page, path)
    file = io.BytesIO(path.read_bytes())
    Image.open(file).convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(path, optimize=True)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:2]))
